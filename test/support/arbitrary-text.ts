import fc from "fast-check";

/**
 * One code point of all of Unicode, surrogates included, half of them below U+0100 where control characters are. Does what fast-check's
 * `unit: "binary"` does, whose tables take half a second to build.
 */
const codePoint = fc
  .oneof(fc.integer({ min: 0, max: 0xff }), fc.integer({ min: 0, max: 0x10ffff }))
  .map((code) => String.fromCodePoint(code));

/** Texts for property tests of whatever must stand any text. */
export const anyText = fc.string({ unit: codePoint });
