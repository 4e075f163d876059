/** Matrices in bfloat16 as the graphs of CUDA take them, on the processor, which has the same Cast. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { BFLOAT16_CASES, roundedToBfloat16 } from "../../src/models/bfloat16-cases.ts";
import { bfloat16Bytes, keptInBfloat16 } from "../../src/models/bfloat16-matrices.ts";
import { checkGradients } from "../../src/models/gradient-check.ts";
import type { ParameterKind } from "../../src/models/parameters.ts";

describe("gradients through matrices in bfloat16 are those of their values", () => {
  test.each(Object.entries(BFLOAT16_CASES))("%s of any shape", (_, makeCase) => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { build, inputs } = makeCase(seed);
        for (const profile of ["cpu", "cuda"] as const) {
          expect(checkGradients(build, inputs, 0, { profile }).float32Error).toBeLessThan(1e-5);
        }
      }),
      { numRuns: 10, endOnFailure: true },
    );
  });
});

describe("the memory of a stored matrix", () => {
  test("packed: columns j and j + columns / 2 share word j", () => {
    const values = Float32Array.of(1, 2, 3, 4, -1, -2, -3, -4);
    const native = new Uint16Array(bfloat16Bytes("native", values, 4).buffer, 0, 8);
    expect([...native]).toEqual([0x3f80, 0x4000, 0x4040, 0x4080, 0xbf80, 0xc000, 0xc040, 0xc080]);
    const packed = new Uint32Array(bfloat16Bytes("packed", values, 4).buffer, 0, 4);
    expect([...packed]).toEqual([0x40403f80, 0x40804000, 0xc040bf80, 0xc080c000]);
  });

  test("rounds to nearest, ties to even", () => {
    expect([...roundedToBfloat16([1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20])]).toEqual([
      1,
      1 + 2 ** -6,
      1 + 2 ** -7,
    ]);
  });

  test("embedding and projections are kept so, and nothing else", () => {
    const kept = (kind: ParameterKind, shape: readonly number[]) => keptInBfloat16("bfloat16", { kind, shape });
    expect(
      ["embedding", "projection", "residual-projection"].every((kind) => kept(kind as ParameterKind, [3, 4])),
    ).toBe(true);
    expect(kept("projection", [3, 5])).toBe(false);
    expect(kept("norm", [4])).toBe(false);
    expect(kept("bias", [4])).toBe(false);
    expect(kept("adapter", [3, 4])).toBe(false);
    expect(kept("value-head", [1, 4])).toBe(false);
    expect(keptInBfloat16("float32", { kind: "projection", shape: [3, 4] })).toBe(false);
  });
});
