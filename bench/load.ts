/**
 * How free the control process stays under load: `bun run bench load [--episodes 20000] [--concurrency 512] [--json]`
 *
 * A real run (rollout, sandboxes, engine, store, service) with so many episodes in flight. Meanwhile this process asks the
 * API as a dashboard does, follows its events, and measures how late its own, idle event loop is: what other programs on the
 * machine take shows there too. Event-loop lag and memory of control are the run's own metrics, step by step.
 * Ctrl-C and SIGTERM end the run; what was measured until then is printed. Exit code 1 where a limit is not kept.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { median } from "../src/cli/benches/bench.ts";
import { ControlMeter } from "../src/experiment/control-meter.ts";
import { ApiLoad } from "./load-api.ts";
import { type Growth, growthOf, MemoryWatch } from "./load-memory.ts";
import { startAle } from "./load-run.ts";

/** `growth`: what memory may gain from the middle of the run to its end, as a share: a kilobyte per episode of 20 000. */
const LIMITS = { lagMs: 20, apiMs: 100, growth: 0.05 };
const GROUP_SIZE = 8;

const { values: options } = parseArgs({
  options: {
    episodes: { type: "string", default: "20000" },
    concurrency: { type: "string", default: "512" },
    json: { type: "boolean", default: false },
  },
});

type Metrics = Readonly<Record<string, number>>;

/** Of sorted values; the last where there are few. */
function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** Median of the least memory of the steps in a quarter of the run, in MB. */
function quarterMb(leasts: readonly number[], quarter: number): number {
  const length = leasts.length / 4;
  const own = leasts.slice(Math.floor((quarter - 1) * length), Math.ceil(quarter * length));
  return median(own.filter((bytes) => !Number.isNaN(bytes))) / 1e6;
}

async function measure() {
  const concurrency = Number(options.concurrency);
  const groups = Math.max(1, Math.round(concurrency / GROUP_SIZE));
  const steps = Math.max(4, Math.round(Number(options.episodes) / (groups * GROUP_SIZE)));
  const folder = mkdtempSync(join(tmpdir(), "ale-load-"));
  using witness = new ControlMeter();
  const started = performance.now();
  try {
    await using run = await startAle(folder, { concurrency, groups, groupSize: GROUP_SIZE, steps });
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => run.stop());
    const api = new ApiLoad(run.url, run.runId);
    using memory = new MemoryWatch(run.pid);
    const leasts: number[] = [];
    const metrics: Metrics[] = [];
    for await (const row of run.steps()) {
      metrics.push(row);
      const least = memory.take();
      if ((row.step as number) > 0) leasts.push(least);
      if (!options.json) showStep(row, steps);
    }
    const latencies = await api.stop();
    const trained = metrics.filter((row) => (row.step as number) > 0);
    const late = trained.map((row) => row["perf/control/lag_p99_ms"] as number);
    const seconds = (performance.now() - started) / 1000;
    return {
      ...{ concurrency, steps: trained.length, episodes: trained.length * groups * GROUP_SIZE, seconds },
      inFlight: api.inFlight,
      lagMs: {
        p50: median(trained.map((row) => row["perf/control/lag_p50_ms"] as number)),
        p99: median(late),
        worstStepP99: Math.max(...late),
      },
      busyP99Ms: median(trained.map((row) => row["perf/control/busy_p99_ms"] as number)),
      idleProcessLagMs: witness.take()["perf/control/lag_p99_ms"] as number,
      rssMb: { quarters: [1, 2, 3, 4].map((quarter) => quarterMb(leasts, quarter)), ...inMb(growthOf(leasts)) },
      api: Object.fromEntries(
        [...latencies].map(([path, ms]) => [
          path,
          { n: ms.length, p50: percentile(ms, 0.5), p99: percentile(ms, 0.99), max: Math.max(...ms) },
        ]),
      ),
      load: loadavg()[0],
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function inMb({ median, added }: Growth) {
  return { median: median / 1e6, added: added / 1e6 };
}

function showStep(row: Metrics, steps: number): void {
  const value = (name: string, digits = 1) => (row[name] ?? Number.NaN).toFixed(digits);
  console.error(
    `step ${row.step}/${steps}  ${value("perf/episodes_per_second")} episodes/s  event loop late by ` +
      `${value("perf/control/lag_p50_ms", 2)} ms p50, ${value("perf/control/lag_p99_ms")} ms p99, busy for ${value("perf/control/busy_p99_ms")} ms p99  ${value("perf/control/rss_mb", 0)} MB`,
  );
}

const result = await measure();
const { lagMs, rssMb, api } = result;
const growth = rssMb.added / rssMb.median;
const kept =
  lagMs.p99 < LIMITS.lagMs && growth < LIMITS.growth && Object.values(api).every(({ p99 }) => p99 < LIMITS.apiMs);
if (options.json) console.log(JSON.stringify({ ...result, kept }));
else {
  const { episodes, seconds, inFlight, busyP99Ms, idleProcessLagMs, load } = result;
  const fixed = (ms: number) => `${ms.toFixed(1)} ms`;
  console.log(`${episodes} episodes, ${inFlight} in flight, in ${seconds.toFixed(0)} s; load ${load?.toFixed(1)}`);
  console.log(
    `event loop of control late by ${fixed(lagMs.p50)} p50, ${fixed(lagMs.p99)} p99 (medians of steps), ${fixed(lagMs.worstStepP99)} ` +
      `p99 of the worst step; it computes for ${fixed(busyP99Ms)} p99 at a stretch; an idle process is late by ` +
      `${fixed(idleProcessLagMs)} p99`,
  );
  console.log(
    `memory of control, least of a step: ${rssMb.quarters.map((mb) => mb.toFixed(0)).join(", ")} MB in the quarters of the run; ` +
      `in its second half ${rssMb.added.toFixed(1)} MB are added (${(100 * growth).toFixed(1)} %)`,
  );
  for (const [path, { n, p50, p99, max }] of Object.entries(api)) {
    console.log(`${path.padEnd(26)} ${n} answers, ${fixed(p50)} p50, ${fixed(p99)} p99, ${fixed(max)} at most`);
  }
}
process.exitCode = kept ? 0 : 1;
