import { describe, expect, test } from "bun:test";
import { checkParity, MismatchMeter, mismatchMetrics } from "./mismatch.ts";

describe("a token counts in one measure only", () => {
  const meter = new MismatchMeter(7, {
    masks: [Uint8Array.of(0, 1, 1, 1, 1), Uint8Array.of(1, 0, 0, 0, 0)],
    generation: [Float32Array.of(9, -1, -2, -3, -1), Float32Array.of(-0.5, 9, 9, 9, 9)],
    versions: [Int32Array.of(0, 7, 7, 7, 5), Int32Array.of(7, 0, 0, 0, 0)],
    kvOldest: [Int32Array.of(0, 7, 6, 7, 5), Int32Array.of(7, 0, 0, 0, 0)],
  });
  meter.add(0, Float32Array.of(0, -1.25, -2.5, -3, -2));
  meter.add(1, Float32Array.of(-0.5, 0, 0, 0, 0));
  const { parity, cacheMix, staleness } = meter.summary();

  test("parity: sampled by the weights trained from, over a cache of theirs", () => {
    expect(parity).toEqual({
      ...{ tokens: 3, max: 0.25, scaledMax: 0.25 / 1.25 },
      ...{ mean: 0.25 / 3, kl: (Math.exp(-0.25) - 1 + 0.25) / 3 },
    });
  });

  test("cache mix: sampled by them, over a cache with older entries", () => {
    expect({ ...cacheMix, kl: 0 }).toEqual({ tokens: 1, max: 0.5, scaledMax: 0.2, mean: 0.5, kl: 0 });
    expect(cacheMix.kl).toBeCloseTo(Math.exp(-0.5) - 0.5, 12);
  });

  test("staleness: sampled by older weights", () => {
    expect(staleness).toEqual({ tokens: 1, mean: Math.exp(-1), max: Math.exp(-1) });
  });

  test("metrics leave out what there was nothing of", () => {
    expect(mismatchMetrics(meter.summary())).toMatchObject({
      "rollout_corr/logprob_abs_diff_max": 0.25,
      "rollout_corr/cache_mix/abs_diff_max": 0.5,
      "rollout_corr/staleness/ratio_max": Math.exp(-1),
    });
    const nothing = new MismatchMeter(1, { masks: [], generation: [], versions: [], kvOldest: [] }).summary();
    expect(Object.keys(mismatchMetrics(nothing)).filter((name) => name.includes("ratio"))).toEqual([]);
  });
});

test("each limit is checked by itself, 0 is none, and NaN passes none", () => {
  const found = { max: 0.5, scaledMax: 0.1, mean: 0.01, kl: 0.001 };
  expect(() => checkParity(found, { max: 0, mean: 0, kl: 0 }, "here")).not.toThrow();
  expect(() => checkParity(found, { max: 0.2, mean: 0.02, kl: 0.002 }, "here")).not.toThrow();
  expect(() => checkParity(found, { max: 0.05, mean: 0, kl: 0 }, "here")).toThrow(
    "max |Δ log p| / max(1, |log p|) = 1.00e-1 > 0.05",
  );
  expect(() => checkParity(found, { max: 0, mean: 0.005, kl: 0 }, "here")).toThrow("mean |Δ log p|");
  expect(() => checkParity(found, { max: 0, mean: 0, kl: 1e-4 }, "here")).toThrow("KL");
  expect(() => checkParity({ ...found, scaledMax: Number.NaN }, { max: 1, mean: 0, kl: 0 }, "here")).toThrow("NaN");
});
