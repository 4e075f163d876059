/**
 * Which bytes a token of a vocabulary stands for. Vocabularies write bytes in one of two ways: GPT-2's, a printable character
 * for each of the 256 bytes (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"); and SentencePiece's,
 * plain text with `▁` for a space and `<0xNN>` for a byte that is no text of its own.
 */

import { z } from "zod";

const StepSchema = z.union([
  z.looseObject({ type: z.literal("ByteLevel") }),
  z.looseObject({ type: z.literal("ByteFallback") }),
  z.looseObject({ type: z.literal("Fuse") }),
  z.looseObject({
    type: z.literal("Replace"),
    pattern: z.looseObject({ String: z.string() }),
    content: z.string(),
  }),
  z.looseObject({ type: z.literal("Strip"), content: z.literal(" "), start: z.number().int(), stop: z.literal(0) }),
]);

/** The `decoder` of a `tokenizer.json`. */
export const DecoderSpecSchema = z.union(
  [StepSchema, z.looseObject({ type: z.literal("Sequence"), decoders: z.array(StepSchema) })],
  { error: "decoder is not ByteLevel or a Sequence of Replace, ByteFallback, Fuse and Strip" },
);

export interface DecoderSpec {
  /** Tokens are written in GPT-2's byte alphabet. */
  readonly byteLevel: boolean;
  /** Tokens `<0xNN>` stand for bytes. */
  readonly byteFallback: boolean;
  readonly replacements: readonly (readonly [from: string, to: string])[];
  /** Spaces to drop at the start of a text: SentencePiece puts one in front when it encodes. */
  readonly stripStart: number;
}

/** Reads a checked `decoder`. */
export function tokenCoding(decoder: z.infer<typeof DecoderSpecSchema>): DecoderSpec {
  const steps = decoder.type === "Sequence" ? decoder.decoders : [decoder];
  return {
    byteLevel: steps.some(({ type }) => type === "ByteLevel"),
    byteFallback: steps.some(({ type }) => type === "ByteFallback"),
    replacements: steps.flatMap((step) =>
      step.type === "Replace" ? [[step.pattern.String, step.content] as const] : [],
    ),
    stripStart: steps.reduce((sum, step) => (step.type === "Strip" ? sum + step.start : sum), 0),
  };
}

/** The byte of each character of GPT-2's alphabet: printable ones stand for themselves, the others follow from U+0100 on. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let next = 0x100;
  return new Map(
    Array.from({ length: 256 }, (_, byte) => [String.fromCodePoint(printable(byte) ? byte : next++), byte] as const),
  );
})();

/** The bytes of an entry of the vocabulary. */
export function tokenBytes(token: string, decoder: DecoderSpec): Uint8Array {
  if (decoder.byteLevel) {
    const bytes = Array.from(token, (character) => BYTE_OF_CHARACTER.get(character));
    // A token outside of the alphabet is taken as it is written, as Hugging Face's own decoder does.
    if (bytes.every((byte) => byte !== undefined)) return Uint8Array.from(bytes);
    return new TextEncoder().encode(token);
  }
  const byte = decoder.byteFallback ? /^<0x([0-9A-F]{2})>$/.exec(token)?.[1] : undefined;
  if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16));
  return new TextEncoder().encode(decoder.replacements.reduce((text, [from, to]) => text.replaceAll(from, to), token));
}
