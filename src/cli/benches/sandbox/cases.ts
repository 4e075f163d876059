/** What the product's own sandboxes are measured doing. */

import { AleError } from "../../../core/errors.ts";
import type { CommandResult, Sandbox } from "../../../core/ports.ts";
import type { EnvironmentSpec } from "../../../core/types.ts";
import type { NativeSandboxProvider } from "../../../sandbox/supervisor.ts";
import type { BenchContext } from "../bench.ts";
import { memoryNow } from "./machine.ts";
import { openPeers } from "./peers.ts";
import { rowsOf, type Side, takeTurns, timed, timing, type Use } from "./sides.ts";

export interface SandboxBench {
  readonly context: BenchContext;
  readonly provider: NativeSandboxProvider;
  readonly environment: EnvironmentSpec;
}

const ROUNDS = 100;
/** Sandboxes made and used at the same time where many are. */
const TOGETHER = 16;
const TOGETHER_TURNS = 12;
const CROWD = 256;
const WARM = 8;
const FORK_BYTES = 512 << 20;
/** Each leaves a layer below the original, of which there can be 64. */
const FORK_ROUNDS = 20;
const GREETING = "ready\n";

export function optionsOf(signal: AbortSignal) {
  return { timeoutMs: 60_000, maxOutputBytes: 4096, signal };
}

/** @throws AleError("sandbox") when the sandbox did not do what it was asked. */
export function checkGreeting(result: CommandResult): void {
  const said = new TextDecoder().decode(result.output);
  if (result.exitCode !== 0 || said !== GREETING)
    throw new AleError("sandbox", `echo ended with ${result.exitCode} in a sandbox and said ${JSON.stringify(said)}`, {
      hint: "ale doctor",
    });
}

/** A sandbox from `make`, asked for one line in its shell, and destroyed. */
export async function useOnce(make: () => Promise<Sandbox>, signal: AbortSignal): Promise<Use> {
  const started = performance.now();
  const sandbox = await make();
  let first: number;
  try {
    checkGreeting(await sandbox.run("echo ready", optionsOf(signal)));
    first = performance.now() - started;
  } finally {
    await sandbox.destroy();
  }
  return { first, total: performance.now() - started };
}

/** Sandboxes that nothing was prepared for, beside the peers, one at a time and many at once. */
export async function measureCold({ context, provider, environment }: SandboxBench): Promise<void> {
  const { signal, report, note, rounds = ROUNDS } = context;
  const own: Side = {
    backend: "native",
    use: (stop) => useOnce(() => provider.create(environment, stop), stop),
  };
  await using peers = await openPeers(note);
  const sides = [own, ...peers.sides];
  const turnsOf = async (some: readonly Side[], concurrency: number, turns: number) => {
    const measured = await takeTurns(some, { rounds: turns, concurrency, signal });
    for (const row of rowsOf("cold", concurrency, measured)) report(row);
  };
  await turnsOf(sides, 1, rounds);
  const quick = sides.filter(({ every = 1 }) => every === 1);
  await turnsOf(quick, TOGETHER, Math.max(1, Math.ceil((rounds * TOGETHER_TURNS) / ROUNDS)));
}

/** Sandboxes that waited in the pool; between claims the pool fills up again. */
export async function measureWarm({ context, provider, environment }: SandboxBench): Promise<void> {
  const { signal, report, rounds = ROUNDS } = context;
  provider.warm(environment, WARM);
  const full = async () => {
    while (provider.warmCount < WARM) {
      signal.throwIfAborted();
      await Bun.sleep(2);
    }
  };
  await full();
  const uses: Use[] = [];
  const started = performance.now();
  for (let round = 0; round < rounds; round++) {
    await full();
    uses.push(await useOnce(() => provider.create(environment, signal), signal));
  }
  const seconds = (performance.now() - started) / 1000;
  provider.warm(environment, 0);
  for (const row of rowsOf("warm", 1, [{ backend: "native", uses, seconds }])) report(row);
}

/** Commands in a sandbox that is there: a builtin in its shell, and a program by itself. */
export async function measureCommands(bench: SandboxBench, name: "session" | "exec"): Promise<void> {
  const { context, provider, environment } = bench;
  const { signal, report, rounds = ROUNDS } = context;
  await using sandbox = await provider.create(environment, signal);
  const options = optionsOf(signal);
  const work: Record<typeof name, () => Promise<unknown>> = {
    session: async () => checkGreeting(await sandbox.run("echo ready", options)),
    exec: () => sandbox.exec(["/bin/true"], { ...options, cwd: "/" }),
  };
  const side = { backend: "native", use: () => timed(work[name]) };
  for (const row of rowsOf(name, 1, await takeTurns([side], { rounds: rounds * 5, concurrency: 1, signal })))
    report(row);
}

/** The state of a sandbox with 512 MB of files taken, and another one started from it that has done its first command. */
export async function measureFork({ context, provider, environment }: SandboxBench): Promise<void> {
  const { signal, report, note, rounds = FORK_ROUNDS } = context;
  if (memoryNow().available < 2 * FORK_BYTES) {
    note("without fork-512mb: less than 1 GB of memory is free");
    return;
  }
  const large = {
    ...environment,
    diskBytes: FORK_BYTES * 1.25,
    memoryBytes: Math.max(environment.memoryBytes, 1 << 28),
  };
  await using sandbox = await provider.create(large, signal);
  const filled = await sandbox.run(`head -c ${FORK_BYTES} /dev/zero > state`, optionsOf(signal));
  if (filled.exitCode !== 0)
    throw new AleError(
      "sandbox",
      `512 MB could not be written in a sandbox: ${new TextDecoder().decode(filled.output)}`,
    );
  const fork = async (): Promise<Use> => {
    const started = performance.now();
    await using snapshot = await sandbox.snapshot();
    const taken = performance.now() - started;
    const { first, total } = await useOnce(() => provider.fork(snapshot, signal), signal);
    return { first: taken + first, total: taken + total };
  };
  const turns = { rounds: Math.min(rounds, FORK_ROUNDS), concurrency: 1, signal };
  for (const row of rowsOf("fork-512mb", 1, await takeTurns([{ backend: "native", use: fork }], turns))) report(row);
}

/** A whole crowd asked for at the same moment. */
export async function measureTogether({ context, provider, environment }: SandboxBench): Promise<void> {
  const { signal, report } = context;
  const sandboxes: Sandbox[] = [];
  const started = performance.now();
  const since = () => performance.now() - started;
  const one = async (): Promise<number> => {
    const sandbox = await provider.create(environment, signal);
    sandboxes.push(sandbox);
    checkGreeting(await sandbox.run("echo ready", optionsOf(signal)));
    return since();
  };
  let answered: PromiseSettledResult<number>[];
  let allMs: number;
  const gone: number[] = [];
  try {
    answered = await Promise.allSettled(Array.from({ length: CROWD }, one));
    allMs = since();
  } finally {
    await Promise.all(sandboxes.map((sandbox) => sandbox.destroy().then(() => gone.push(since()))));
  }
  const failed = answered.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  const uses = answered.map((result, i) => ({
    first: result.status === "fulfilled" ? result.value : 0,
    total: gone[i] ?? 0,
  }));
  report({
    ...{ name: "together-256", backend: "native", concurrency: CROWD },
    ...timing(uses),
    perSecond: Math.round((CROWD / allMs) * 1000),
    answeredMs: Math.round(allMs),
  });
}
