/** Control characters but tab and newline, and marks that reorder text so that it reads as something else. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to find
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Characters of a hostile text that are shown. */
const SHOWN = 20_000;

/** Text as it is, but with what cannot be seen written out: `\u{1b}`. */
export function visible(text: string): string {
  const cut = text.length > SHOWN ? `${text.slice(0, SHOWN)} … (${text.length - SHOWN} more characters)` : text;
  return cut.replace(INVISIBLE, (character) => `\\u{${character.charCodeAt(0).toString(16)}}`);
}
