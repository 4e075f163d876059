/**
 * `ale bench store`: how fast the store takes trajectories on its real path, main thread → writer thread → libSQL file, what
 * that costs, and how late the main thread's event loop runs meanwhile.
 */

import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Rng } from "../../core/rng.ts";
import type { TokenRecord, Trajectory } from "../../core/types.ts";
import { openStore, type Store } from "../../store/store.ts";
import { type Bench, type BenchContext, type Percentiles, rounded } from "./bench.ts";

interface Case {
  readonly name: string;
  readonly tokensPerTurn: number;
  /** Turns per second to hold; as fast as possible when omitted. */
  readonly rate?: number;
}

const CASES: readonly Case[] = [
  { name: "small turns", tokensPerTurn: 24 },
  { name: "large turns", tokensPerTurn: 2000 },
  { name: "large turns, 1000 a second", tokensPerTurn: 2000, rate: 1000 },
];
const SECONDS = 5;
const TURNS = 4;
/** Episodes per call, as a training step of the shell suite has them. */
const EPISODES = 256;
/** Calls that wait for their commit at once. */
const IN_FLIGHT = 4;
/** How often the event loop is asked how late it is. */
const TICK_MS = 2;

export const STORE_BENCH: Bench = {
  name: "store",
  summary: "write trajectories: turns a second, share of a core, lag of the event loop",
  measure: measureStore,
  show: (row) => {
    const lag = (key: string) => (row[key] as Percentiles).p99.toFixed(1);
    return (
      `${String(row.name).padEnd(28)} ${`${Math.round(Number(row.turnsPerSecond))} turns/s`.padStart(16)} ` +
      `${`${(100 * Number(row.coreShare)).toFixed(1)} % of a core`.padStart(20)} ` +
      `${`${Math.round(Number(row.bytesPerTurn))} B/turn`.padStart(14)}  ` +
      `event loop late by ${lag("lagMs")} ms (idle ${lag("idleLagMs")} ms), p99`
    );
  },
};

async function measureStore({ signal, report }: BenchContext): Promise<void> {
  for (const kind of CASES) {
    const idle = new LagMeter();
    await Bun.sleep(1000);
    const idleLagMs = idle.stop();
    report({ name: kind.name, ...(await measureCase(kind, signal)), idleLagMs });
  }
}

async function measureCase(kind: Case, signal: AbortSignal) {
  const folder = mkdtempSync(join(tmpdir(), "ale-bench-store-"));
  try {
    const file = join(folder, "ale.db");
    const { turns, ...figures } = await writeTo(file, kind, signal);
    return { ...figures, bytesPerTurn: rounded(statSync(file).size / turns) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function writeTo(file: string, kind: Case, signal: AbortSignal) {
  await using store = await openStore(file);
  const runId = await createRun(store);
  const episodes = Array.from({ length: EPISODES }, (_, i) => makeTrajectory(i, kind.tokensPerTurn));
  const write = (step: number) =>
    store.writeEpisodes(
      runId,
      step,
      "train",
      episodes.map((one) => ({ ...one, episodeId: `${step}/${one.episodeId}`, groupId: `${step}/${one.groupId}` })),
    );
  await write(0);
  return await load(kind, signal, write);
}

/** Calls `write` for a while, at the rate of the case. */
async function load(kind: Case, signal: AbortSignal, write: (step: number) => Promise<void>) {
  const lag = new LagMeter();
  const [cpu, started] = [process.cpuUsage(), performance.now()];
  const elapsed = () => (performance.now() - started) / 1000;
  const inFlight: Promise<void>[] = [];
  let step = 0;
  while (elapsed() < SECONDS) {
    signal.throwIfAborted();
    inFlight.push(write(++step));
    if (inFlight.length >= IN_FLIGHT) await inFlight.shift();
    const aheadMs = kind.rate === undefined ? 0 : 1000 * ((step * EPISODES * TURNS) / kind.rate - elapsed());
    await Bun.sleep(Math.max(0, aheadMs));
  }
  await Promise.all(inFlight);
  const used = process.cpuUsage(cpu);
  const turns = step * EPISODES * TURNS;
  return {
    turns: turns + EPISODES * TURNS,
    turnsPerSecond: rounded(turns / elapsed()),
    coreShare: rounded((used.user + used.system) / 1e6 / elapsed()),
    lagMs: lag.stop(),
  };
}

/** How much later than asked for a timer of the main thread runs. */
class LagMeter {
  readonly #lags: number[] = [];
  readonly #timer: Timer;
  #last = performance.now();

  constructor() {
    this.#timer = setInterval(() => {
      const now = performance.now();
      this.#lags.push(Math.max(0, now - this.#last - TICK_MS));
      this.#last = now;
    }, TICK_MS);
  }

  stop(): Percentiles {
    clearInterval(this.#timer);
    const sorted = this.#lags.toSorted((a, b) => a - b);
    const at = (share: number) => rounded(sorted[Math.floor(share * (sorted.length - 1))] ?? 0);
    return { p50: at(0.5), p99: at(0.99) };
  }
}

function createRun(store: Store): Promise<string> {
  return store.createRun({
    ...{ name: "bench", algorithm: "none", seed: 1, configToml: "", configHash: "bench", outDir: "/nowhere" },
    ...{ isolation: "none", steps: 1, aleVersion: "bench" },
  });
}

/** Half of the tokens sampled, half shown; log-probabilities with all the bits that real ones have. */
function makeTrajectory(index: number, tokensPerTurn: number): Trajectory {
  const rng = new Rng(`bench/${index}`);
  return {
    episodeId: `${index}`,
    groupId: `${index >> 3}`,
    taskId: `bench/family/train/${index >> 3}`,
    ...{ family: "family", split: "train", seed: index >> 3, member: index % 8 },
    tokens: makeTokens(tokensPerTurn, rng),
    turns: Array.from({ length: TURNS }, (_, turn) => ({
      index: turn,
      command: rng.pick(["ls -la", "cat notes.txt", "wc -l data.csv", "sort -n a | tail -1"]),
      observation: `${rng.int(1, 900)} data.csv\n`,
      exitCode: 0,
      startedMs: 150 * turn,
      generatedMs: 150 * turn + 100 + rng.next(),
      observedMs: 150 * turn + 130 + rng.next(),
    })),
    reward: index % 2,
    stopReason: "done",
    isolation: "none",
    grading: "clean",
    startedAt: 1_795_000_000_000 + index,
    phases: { reset: rng.next(), generate: 500 + rng.next(), tool: 100 + rng.next(), grade: rng.next() },
  };
}

function makeTokens(tokensPerTurn: number, rng: Rng): TokenRecord {
  const length = TURNS * tokensPerTurn;
  const mask = new Uint8Array(length).map((_, t) => ((t % tokensPerTurn) * 2 < tokensPerTurn ? 1 : 0));
  const logprobs = new Float32Array(length).map((_, t) => (mask[t] === 1 ? Math.log(0.1 + 0.9 * rng.next()) : 0));
  const versions = new Int32Array(length).fill(1);
  return {
    ids: new Int32Array(length).map(() => rng.int(0, 511)),
    mask,
    logprobs,
    logprobsT1: logprobs.map((value) => value * 1.01),
    versions,
    kvOldest: versions,
    turnIds: new Int32Array(length).map((_, t) => (mask[t] === 1 ? Math.floor(t / tokensPerTurn) : -1)),
  };
}
