/** `ale bench sandbox`: what making, using and destroying sandboxes costs on this machine. */

import { AleError } from "../../core/errors.ts";
import type { Sandbox, SandboxProvider } from "../../core/ports.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import { openSandboxes } from "../../experiment/sandboxes.ts";
import { loadSuite } from "../../tasks/suite.ts";
import { type Bench, type BenchContext, type Percentiles, type Row, rounded } from "./bench.ts";

const SUITE = "tasks/shell";
const ROUNDS = 100;
/** Sandboxes made and used at the same time in the cases that say so. */
const TOGETHER = 8;

export const SANDBOX_BENCH: Bench = {
  name: "sandbox",
  summary: "make, use and destroy sandboxes; a command in a shell; a program run once",
  measure: measureSandboxes,
  show: (row) => {
    const times = (key: string) => (row[key] as Percentiles).p50.toFixed(2);
    return (
      `${String(row.name).padEnd(10)} ${`${row.concurrency} at once`.padStart(10)} ` +
      `${`first output ${times("firstMs")} ms`.padStart(24)} ${`all ${times("totalMs")} ms`.padStart(16)} ` +
      `${`${Math.round(Number(row.perSecond))} per second`.padStart(18)}`
    );
  },
};

/** Milliseconds to the first output, and until everything was gone again. */
interface Use {
  readonly first: number;
  readonly total: number;
}

async function measureSandboxes({ signal, report }: BenchContext): Promise<void> {
  const environment = firstEnvironment();
  await using provider = await openSandboxes(SUITE);
  const cold = () => useOnce(provider, environment, signal);
  await cold();
  const row = (name: string, concurrency: number, timing: Timing): Row => ({
    name,
    backend: "native",
    concurrency,
    ...timing,
  });
  report(row("cold", 1, await timeUses(cold, 1, signal)));
  report(row("cold", TOGETHER, await timeUses(cold, TOGETHER, signal)));
  const options = { timeoutMs: 5000, maxOutputBytes: 4096, signal };
  const sandbox = await provider.create(environment, signal);
  try {
    const timed = async (work: () => Promise<unknown>): Promise<Use> => {
      const started = performance.now();
      await work();
      const ms = performance.now() - started;
      return { first: ms, total: ms };
    };
    const session = () => timed(() => sandbox.run("echo ready", options));
    report(row("session", 1, await timeUses(session, 1, signal)));
    const exec = () => timed(() => sandbox.exec(["/bin/true"], { ...options, cwd: "/" }));
    report(row("exec", 1, await timeUses(exec, 1, signal)));
  } finally {
    await sandbox.destroy();
  }
}

/** A sandbox made, asked for one line, and destroyed. */
async function useOnce(provider: SandboxProvider, environment: EnvironmentSpec, signal: AbortSignal): Promise<Use> {
  const started = performance.now();
  const sandbox: Sandbox = await provider.create(environment, signal);
  let first: number;
  try {
    const { exitCode } = await sandbox.run("echo ready", { timeoutMs: 5000, maxOutputBytes: 4096, signal });
    first = performance.now() - started;
    if (exitCode !== 0)
      throw new AleError("sandbox", `echo ended with ${exitCode} in a sandbox`, { hint: "ale doctor" });
  } finally {
    await sandbox.destroy();
  }
  return { first, total: performance.now() - started };
}

interface Timing {
  readonly firstMs: Percentiles;
  readonly totalMs: Percentiles;
  readonly perSecond: number;
}

async function timeUses(use: () => Promise<Use>, concurrency: number, signal: AbortSignal): Promise<Timing> {
  const uses: Use[] = [];
  const started = performance.now();
  while (uses.length < ROUNDS) {
    signal.throwIfAborted();
    uses.push(...(await Promise.all(Array.from({ length: concurrency }, use))));
  }
  const seconds = (performance.now() - started) / 1000;
  return {
    firstMs: percentiles(uses.map(({ first }) => first)),
    totalMs: percentiles(uses.map(({ total }) => total)),
    perSecond: rounded(uses.length / seconds),
  };
}

function percentiles(values: readonly number[]): Percentiles {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) =>
    rounded(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] as number);
  return { p50: at(0.5), p99: at(0.99) };
}

function firstEnvironment(): EnvironmentSpec {
  const suite = loadSuite(SUITE);
  const name = suite.families[0];
  if (name === undefined) throw new AleError("task", `${SUITE} has no families`, { hint: "ale tasks ls" });
  return suite.family(name).environment;
}
