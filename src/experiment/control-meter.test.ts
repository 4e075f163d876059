import { expect, test } from "bun:test";
import { ControlMeter } from "./control-meter.ts";

test("tells how late the event loop was since it was last asked, and how much memory there is", async () => {
  using meter = new ControlMeter();
  await Bun.sleep(20);
  const until = performance.now() + 120;
  while (performance.now() < until);
  await Bun.sleep(20);
  const blocked = meter.take();
  expect(blocked["perf/control/lag_p99_ms"]).toBeGreaterThan(60);
  expect(blocked["perf/control/lag_p50_ms"]).toBeLessThan(blocked["perf/control/lag_p99_ms"] as number);
  expect(blocked["perf/control/rss_mb"]).toBeGreaterThan(1);
  // nothing was asked since
  expect(meter.take()["perf/control/lag_p99_ms"]).toBe(0);
});
