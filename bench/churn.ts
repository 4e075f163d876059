/**
 * Sandboxes made and ended at random moments, and what is left of them: `bun run bench churn [--count 10000] [--seed S] [--json]`
 *
 * Several at a time, each does a few random things (commands, programs, shells, terminals, files, pauses, snapshots) with
 * short time limits, and is destroyed when it is done, at a random moment, or killed from outside. Processes, mounts, control
 * groups, namespaces, descriptors and files are counted before and after. Exit code 1 where something is left.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createSandboxProvider } from "../src/sandbox/supervisor.ts";
import { type ChurnResult, churn } from "./churn-run.ts";

const { values: options } = parseArgs({
  options: {
    count: { type: "string", default: "10000" },
    concurrency: { type: "string", default: "16" },
    seed: { type: "string", default: "churn" },
    json: { type: "boolean", default: false },
  },
});

function show({ tally, seconds, before, after, memoryBefore, memoryAfter }: ChurnResult): void {
  for (const [name, count] of [...tally.counts].sort(([a], [b]) => (a < b ? -1 : 1)))
    console.log(`${name.padEnd(30)} ${count}`);
  console.log(`\n${"left behind".padEnd(14)} ${"before".padEnd(22)} after`);
  for (const [name, value] of Object.entries(before)) {
    const now = String(after[name as keyof typeof after]);
    console.log(`${name.padEnd(14)} ${String(value).padEnd(22)} ${now}${now === String(value) ? "" : "   <- differs"}`);
  }
  for (const [name, value] of Object.entries(memoryBefore)) {
    const now = memoryAfter[name as keyof typeof memoryAfter];
    console.log(`${`${name}, MB`.padEnd(14)} ${value.toFixed(1).padEnd(22)} ${now.toFixed(1)}`);
  }
  console.log(
    `\n${options.count} sandboxes in ${seconds.toFixed(0)} s (${(Number(options.count) / seconds).toFixed(0)} per second)`,
  );
}

const stateDir = await mkdtemp(join(tmpdir(), "ale-churn-"));
const interrupt = new AbortController();
process.once("SIGINT", () => interrupt.abort());
try {
  await using provider = await createSandboxProvider({ maskPaths: [], stateDir });
  const count = Number(options.count);
  const result = await churn({
    ...{ provider, stateDir, count, concurrency: Number(options.concurrency), seed: options.seed },
    signal: interrupt.signal,
    onProgress: (done) => {
      if (done % 1000 === 0) console.error(`${done} of ${count}`);
    },
  });
  const { unexpected } = result.tally;
  if (options.json) {
    const { tally, ...rest } = result;
    const counts = Object.fromEntries(tally.counts);
    console.log(JSON.stringify({ isolation: provider.isolation, load: loadavg()[0], ...rest, counts, unexpected }));
  } else {
    show(result);
    console.log(`${provider.isolation}; load ${loadavg()[0]?.toFixed(2)}; seed ${options.seed}`);
    for (const message of new Set(unexpected)) console.log(`unexpected: ${message}`);
  }
  process.exitCode = Bun.deepEquals(result.before, result.after) && unexpected.length === 0 ? 0 : 1;
} finally {
  await rm(stateDir, { recursive: true, force: true });
}
