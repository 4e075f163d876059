/** Text as ROCK's Python side makes it of bytes. */

import { Code, RockError } from "./envelope.ts";

/** UTF-8, with every byte that is none as `\xNN` (Python's `errors="backslashreplace"`). */
export function decodeBackslash(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return decodeByParts(bytes);
  }
}

function decodeByParts(bytes: Uint8Array): string {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at] ?? 0;
    const length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    try {
      text += decoder.decode(bytes.subarray(at, at + length));
      at += length;
    } catch {
      text += `\\x${first.toString(16).padStart(2, "0")}`;
      at++;
    }
  }
  return text;
}

// Escape sequences as ROCK strips them, in bytes that a terminal would act on.
const ESCAPES = new RegExp(`${String.fromCharCode(27)}[@-_][0-?]*[ -/]*[@-~]`, "g");

/** Output of a session: without escape sequences and without white space around it. */
export function sessionText(bytes: Uint8Array): string {
  return decodeBackslash(bytes).replace(ESCAPES, "").trim();
}

/** Python writes some names otherwise than the web: `latin-1`, `utf_16`. */
function decoderFor(encoding: string, fatal: boolean) {
  const options = { fatal, ignoreBOM: true };
  try {
    return new TextDecoder(encoding.replaceAll("_", "-"), options);
  } catch {
    return new TextDecoder(encoding.replace(/[-_]/g, ""), options);
  }
}

/** A file's text with Python's `encoding` and `errors`. */
export function decodeFile(bytes: Uint8Array, encoding: string | null, errors: string | null): string {
  const utf8 = encoding === null || /^utf-?8$/i.test(encoding);
  if (errors === "backslashreplace" && utf8) return decodeBackslash(bytes);
  const strict = errors === null || errors === "strict";
  try {
    const text = decoderFor(encoding ?? "utf-8", strict).decode(bytes);
    return errors === "ignore" ? text.replaceAll("\ufffd", "") : text;
  } catch {
    throw new RockError(
      Code.command,
      `the file cannot be read as ${encoding ?? "utf-8"}; with errors "backslashreplace" it can`,
    );
  }
}

/** Python's `repr` of a string, near enough for messages. */
export function quoted(text: string): string {
  return `'${JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}'`;
}
