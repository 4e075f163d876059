import { expect, test } from "bun:test";
import fc from "fast-check";
import { anyText } from "../../test/support/arbitrary-text.ts";
import { sanitizeLine, sanitizeText } from "./sanitize.ts";

// Written apart from the implementation: code points that may act on a terminal or hide text.
function isDangerous(character: string): boolean {
  const code = character.codePointAt(0) ?? 0;
  if (code === 0x0a) return false;
  return (
    code < 0x20 ||
    (code >= 0x7f && code <= 0x9f) ||
    (code >= 0x200b && code <= 0x200f) ||
    (code >= 0x2028 && code <= 0x202e) ||
    (code >= 0x2060 && code <= 0x206f) ||
    (code >= 0xd800 && code <= 0xdfff) ||
    (code >= 0xe0000 && code <= 0xe0fff) ||
    code === 0xfeff
  );
}

test.each([
  ["\x1b[31mred\x1b[0m", "red"],
  ["\x1b]0;title\x07text", "text"],
  ["\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"],
  ["\x1b]52;c;cGF5bG9hZA==\x07", ""],
  ["\x1bP$q\x1b\\a\x1b_apc\x1b\\b\x1b^pm\x1b\\c", "abc"],
  ["\x9b2Jclear", "clear"],
  ["\x9d0;x\x9ctext", "text"],
  ["\x1b]0;never ended\nnext line", "\nnext line"],
  ["\x1bc\x1b7\x1b(Breset", "reset"],
  ["a\x1b", "a"],
  ["over\rwrite\b\b", "overwrite"],
  ["a\r\nb", "a\nb"],
  ["tab\there", "tab  here"],
  ["rm \u202egpj.exe", "rm gpj.exe"],
  ["zero\u200bwidth\ufeff", "zerowidth"],
  ["lone \ud800 surrogate", "lone \ufffd surrogate"],
  [`a${"\u0301".repeat(500)}`, `a${"\u0301".repeat(4)}`],
  ["naïve 日本語 ✓ 🙂 é", "naïve 日本語 ✓ 🙂 é"],
])("%j", (hostile, clean) => {
  expect(sanitizeText(hostile)).toBe(clean);
});

const piece = fc.oneof(
  anyText,
  fc.constantFrom(
    "\x1b",
    "\x1b[",
    "\x1b]",
    "\x9b",
    "\x07",
    "\x1b\\",
    "\n",
    "\r",
    "\t",
    "31m",
    "8;;x",
    "\u202e",
    "\x1bP",
    "\x90",
  ),
);
const hostileText = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(""));

test("nothing that acts on a terminal survives, and a second pass changes nothing", () => {
  fc.assert(
    fc.property(hostileText, (text) => {
      const clean = sanitizeText(text);
      expect([...clean].filter(isDangerous)).toEqual([]);
      expect(sanitizeText(clean)).toBe(clean);
    }),
    { numRuns: 500 },
  );
});

test("a line has no newline and is never longer than asked", () => {
  fc.assert(
    fc.property(hostileText, fc.integer({ min: 1, max: 40 }), (text, limit) => {
      const line = sanitizeLine(text, limit);
      expect(line).not.toContain("\n");
      expect([...line].length).toBeLessThanOrEqual(limit);
    }),
    { numRuns: 500 },
  );
  expect(sanitizeLine("one\ntwo")).toBe("one⏎two");
});

test("printable text is left alone", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme-ascii" }), (text) => {
      expect(sanitizeText(text)).toBe(text);
    }),
    { numRuns: 300 },
  );
});

test("a megabyte of unfinished sequences takes no time to speak of", () => {
  const started = performance.now();
  sanitizeText("\x1b]".repeat(500_000));
  sanitizeText(`\x1b[${"0;".repeat(500_000)}`);
  sanitizeText("\u0301".repeat(500_000));
  expect(performance.now() - started).toBeLessThan(1000);
});
