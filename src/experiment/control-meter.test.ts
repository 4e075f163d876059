import { expect, test } from "bun:test";
import { ControlMeter } from "./control-meter.ts";

test("tells how late the event loop was and what it computed since it was last asked", async () => {
  using meter = new ControlMeter();
  await Bun.sleep(50);
  const until = performance.now() + 120;
  let turns = 0;
  while (performance.now() < until) turns++;
  await Bun.sleep(50);
  const blocked = meter.take();
  expect(turns).toBeGreaterThan(0);
  expect(blocked["perf/control/lag_p99_ms"]).toBeGreaterThan(60);
  expect(blocked["perf/control/busy_p99_ms"]).toBeGreaterThan(0);
  expect(blocked["perf/control/rss_mb"]).toBeGreaterThan(1);
  // nothing was looked at since
  expect(meter.take()).toMatchObject({ "perf/control/lag_p99_ms": 0, "perf/control/busy_p99_ms": 0 });
});
