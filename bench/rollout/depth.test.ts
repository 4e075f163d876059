import { expect, test } from "bun:test";
import { nextDepth } from "./depth.ts";

test("as deep as the layers' time says, of pilots about as deep the quickest's", () => {
  expect(nextDepth([], 7)).toBe(24);
  expect(nextDepth([{ layers: 24, decodeMs: 3.5 }], 7)).toBe(48);
  const outOfCache = { layers: 48, decodeMs: 9.6 };
  expect(nextDepth([{ layers: 24, decodeMs: 2.4 }, outOfCache], 7)).toBe(35);
  expect(nextDepth([outOfCache, { layers: 40, decodeMs: 16 }], 7)).toBe(35);
});

test("within limits", () => {
  expect(nextDepth([{ layers: 24, decodeMs: 0.1 }], 7)).toBe(96);
  expect(nextDepth([{ layers: 24, decodeMs: 100 }], 7)).toBe(8);
});
