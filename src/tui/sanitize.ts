/**
 * The one sanitizer for terminals. Whatever an agent, a task, a file or another program wrote passes through here before
 * it is printed: escape sequences could move the cursor, rename the window, fill the clipboard or answer as if typed,
 * and bidirectional controls could show a command as another one.
 */

// Terminal sequences: CSI; the string controls OSC, DCS, SOS, PM, APC up to their end; other two-character escapes.
// Each also has an 8-bit form (ECMA-48 §5.4, §8.3). An unfinished string control ends with its line.
const SEQUENCES =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this removes
  /(?:\x1b\[|\x9b)[\x30-\x3f]*[\x20-\x2f]*[\x40-\x7e]?|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|\x1b[\x20-\x2f]*[\x30-\x7e]?/g;

// C0 and C1 controls but tab and newline, line separators, bidirectional and invisible formatting, tags.
const CONTROLS =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this removes
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;

/** More combining marks than any script needs, piled on one letter to overflow into other lines. */
const STACKED_MARKS = /(\p{M}{4})\p{M}+/gu;

/** Text for a terminal, newlines kept, tabs as two spaces. The result holds no control character but `\n`. */
export function sanitizeText(text: string): string {
  return text
    .toWellFormed()
    .replaceAll("\r\n", "\n")
    .replace(SEQUENCES, "")
    .replace(CONTROLS, "")
    .replaceAll("\t", "  ")
    .replace(STACKED_MARKS, "$1");
}

/** Text for one line of a terminal: newlines become `⏎`; at most `limit` characters are kept. */
export function sanitizeLine(text: string, limit = 1000): string {
  const head = text.length > limit * 4 ? text.slice(0, limit * 4) : text;
  const line = sanitizeText(head).replaceAll("\n", "⏎");
  const characters = [...line];
  return characters.length > limit ? `${characters.slice(0, limit - 1).join("")}…` : line;
}
