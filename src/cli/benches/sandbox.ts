/**
 * `ale bench sandbox`: what making, using, forking and destroying sandboxes costs on this machine, beside bubblewrap, runc and
 * podman where they are installed.
 */

import { suggest } from "../../config/suggest.ts";
import { AleError } from "../../core/errors.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import { openSandboxes } from "../../experiment/sandboxes.ts";
import { loadSuite } from "../../tasks/suite.ts";
import type { Bench, BenchContext, Percentiles, Row } from "./bench.ts";
import type { SandboxBench } from "./sandbox/cases.ts";
import { measureCold, measureCommands, measureFork, measureTogether, measureWarm } from "./sandbox/cases.ts";
import { measureLive } from "./sandbox/live.ts";
import { measureRock } from "./sandbox/rock.ts";

const SUITE = "tasks/shell";

export const SANDBOX_BENCH: Bench = {
  name: "sandbox",
  summary: "make, use, fork and destroy sandboxes, beside bubblewrap, runc and podman",
  measure: measureSandboxes,
  show: showRow,
};

type Measure = (bench: SandboxBench) => Promise<void>;

const CASES: ReadonlyMap<string, Measure> = new Map<string, Measure>([
  ["cold", measureCold],
  ["warm", measureWarm],
  ["session", (bench) => measureCommands(bench, "session")],
  ["exec", (bench) => measureCommands(bench, "exec")],
  ["fork-512mb", measureFork],
  ["rock-start", (bench) => measureRock(bench, false)],
  ["rock-warm", (bench) => measureRock(bench, true)],
  ["together-256", measureTogether],
  ["live-2000", measureLive],
]);

async function measureSandboxes(context: BenchContext): Promise<void> {
  const chosen = context.only.length === 0 ? [...CASES.keys()] : context.only;
  for (const name of chosen) checkName(name);
  const environment = firstEnvironment();
  await using provider = await openSandboxes(SUITE);
  for (const name of chosen) {
    context.signal.throwIfAborted();
    context.note(`${name} …`);
    await CASES.get(name)?.({ context, provider, environment });
  }
}

function checkName(name: string): void {
  if (CASES.has(name)) return;
  const known = [...CASES.keys()];
  const near = suggest(name, known);
  throw new AleError(
    "usage",
    `bench sandbox has no case ${name}${near === undefined ? "" : `; did you mean ${near}?`}`,
    {
      hint: `there are ${known.join(", ")}`,
    },
  );
}

function showRow(row: Row): string {
  const ms = (key: string, width: number) => {
    const { p50, p99 } = row[key] as Percentiles;
    return `${p50.toFixed(2)} ms (p99 ${p99.toFixed(2)})`.padStart(width);
  };
  const line =
    `${String(row.name).padEnd(12)} ${`${row.concurrency} at once`.padStart(12)}  first output ${ms("firstMs", 24)}` +
    `  all ${ms("totalMs", 24)}  ${`${Math.round(Number(row.perSecond))} per second`.padStart(15)}`;
  return line + remarkOn(row);
}

function remarkOn(row: Row): string {
  if (row.ratio !== undefined)
    return `\n${" ".repeat(13)}${Number(row.ratio).toFixed(2)} times as long as ours to the first output`;
  if (row.answeredMs !== undefined) return `\n${" ".repeat(13)}all answered after ${row.answeredMs} ms`;
  if (row.live === undefined) return "";
  const limited = row.limitedBy === undefined ? "" : `, not more: ${row.limitedBy}`;
  return (
    `\n${" ".repeat(13)}${row.live} live, ${row.answered} answered, ${row.megabytesEach} MB each ` +
    `(${row.controlMegabytesEach} MB of it here); all ${row.processes} processes ended within ${row.killMs} ms, ` +
    `${row.survivors} survived${limited}`
  );
}

function firstEnvironment(): EnvironmentSpec {
  const suite = loadSuite(SUITE);
  const name = suite.families[0];
  if (name === undefined) throw new AleError("task", `${SUITE} has no families`, { hint: "ale tasks ls" });
  return suite.family(name).environment;
}
