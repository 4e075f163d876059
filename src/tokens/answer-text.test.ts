import { expect, test } from "bun:test";
import fc from "fast-check";
import { AnswerText } from "./answer-text.ts";
import { trainBpe } from "./bpe-trainer.ts";
import { BpeTokenizer } from "./tokenizer.ts";

const tokenizer = new BpeTokenizer(trainBpe(["the stop string", "stopping strings", "ring the bell"], 300), "test");
/** One token per byte, so that every split of a text into pieces occurs. */
const bytes: Pick<BpeTokenizer, "bytes"> = { bytes: (id) => Uint8Array.of(id) };

function feed(ids: Iterable<number>, text: AnswerText): { pieces: string[]; used: number } {
  const pieces: string[] = [];
  let used = 0;
  for (const id of ids) {
    pieces.push(text.push(id));
    used++;
    if (text.stopString !== undefined) break;
  }
  pieces.push(text.end());
  return { pieces, used };
}

test("the pieces are the decoded tokens, and no piece ends within a character", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 299 }), { maxLength: 30 }), (ids) => {
      const text = new AnswerText(tokenizer);
      const { pieces } = feed(ids, text);
      expect(pieces.join("")).toBe(tokenizer.decode(Int32Array.from(ids)));
      expect(text.text).toBe(pieces.join(""));
    }),
    { numRuns: 60 },
  );
  const euro = new AnswerText(bytes);
  expect([0xe2, 0x82, 0xac].map((id) => euro.push(id))).toEqual(["", "", "€"]);
  expect([0xe2, 0x41].map((id) => euro.push(id))).toEqual(["", "\ufffdA"]);
  euro.push(0xf0);
  expect(euro.end()).toBe("\ufffd");
});

test("an answer ends before the first stop string, with the token that completes it", () => {
  const alphabet = fc.constantFrom("a", "b", "é");
  const short = fc.array(alphabet, { minLength: 1, maxLength: 3 }).map((parts) => parts.join(""));
  fc.assert(
    fc.property(fc.array(alphabet, { maxLength: 25 }), fc.array(short, { maxLength: 3 }), (parts, stopStrings) => {
      const whole = parts.join("");
      const encoded = new TextEncoder().encode(whole);
      const text = new AnswerText(bytes, { stopStrings });
      const { pieces, used } = feed(encoded, text);
      // the plain rule: the shortest prefix that contains a stop string, cut before the first one in it
      let end = 0;
      while (end <= encoded.length && !stopStrings.some((stop) => prefix(encoded, end).includes(stop))) end++;
      const found = prefix(encoded, end);
      const cuts = stopStrings.map((stop) => found.indexOf(stop)).filter((at) => at >= 0);
      expect(used).toBe(Math.min(end, encoded.length));
      expect(pieces.join("")).toBe(cuts.length === 0 ? whole : found.slice(0, Math.min(...cuts)));
      expect(text.stopString !== undefined).toBe(cuts.length > 0);
    }),
    { numRuns: 80 },
  );
});

function prefix(encoded: Uint8Array, length: number): string {
  return new TextDecoder().decode(encoded.subarray(0, length), { stream: true });
}

test("a stop string in the middle of a token, over tokens, and one that never comes", () => {
  const ids = [...tokenizer.encode("ring the stop string")];
  const inside = new AnswerText(tokenizer, { stopStrings: ["tri"] });
  feed(ids, inside);
  expect([inside.text, inside.stopString]).toEqual(["ring the stop s", "tri"]);
  const over = new AnswerText(tokenizer, { stopStrings: ["g the st"] });
  feed(ids, over);
  expect(over.text).toBe("rin");
  const never = new AnswerText(tokenizer, { stopStrings: ["string!", ""] });
  const { pieces } = feed(ids, never);
  expect(never.text).toBe("ring the stop string");
  expect(pieces.at(-1)).toBe("string");
});

test("hidden tokens have no text", () => {
  const hidden = new AnswerText(tokenizer, { hiddenIds: tokenizer.specialIds });
  feed([tokenizer.special("<obs>"), ...tokenizer.encode("the"), tokenizer.special("<done>")], hidden);
  expect(hidden.text).toBe("the");
});
