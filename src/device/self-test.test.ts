import { expect, test } from "bun:test";
import { passes, runSelfTest, SELF_TEST_LIMITS, type SelfTestReport } from "./self-test.ts";

test("the processor computes within rounding of float64", () => {
  const report = runSelfTest({ kind: "cpu", index: 0 });
  expect(report.device).toBe("cpu");
  for (const part of ["forward", "gradient", "decode"] as const) {
    expect(report[part]).toBeGreaterThan(0); // float32 is never exact here
    expect(report[part]).toBeLessThan(SELF_TEST_LIMITS[part]);
  }
  expect(passes(report)).toBe(true);
});

test("one number out of its limit, or none at all, is a failure", () => {
  const good: SelfTestReport = { device: "cpu", forward: 1e-7, gradient: 1e-7, decode: 1e-7, ms: 1 };
  expect(passes(good)).toBe(true);
  for (const part of ["forward", "gradient", "decode"] as const) {
    expect(passes({ ...good, [part]: 1e-3 })).toBe(false);
    expect(passes({ ...good, [part]: Number.NaN })).toBe(false);
  }
});
