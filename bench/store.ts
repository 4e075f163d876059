/**
 * How fast the store takes trajectories, through its real path: main thread → writer thread → libSQL file.
 *
 * `bun bench/store.ts [seconds per case]` prints one JSON object per case: turns per second, and the share of a core that
 * the whole process used meanwhile.
 */

import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Trajectory } from "../src/core/types.ts";
import { openStore, type Store } from "../src/store/store.ts";
import { sampleTrajectory } from "../test/sample-run.ts";

interface Case {
  readonly name: string;
  readonly turns: number;
  readonly tokensPerTurn: number;
  /** Turns per second to hold; as fast as possible when omitted. */
  readonly rate?: number;
}

const CASES: readonly Case[] = [
  { name: "small turns, as fast as possible", turns: 4, tokensPerTurn: 12 },
  { name: "turns of 2000 tokens, as fast as possible", turns: 4, tokensPerTurn: 1000 },
  { name: "turns of 2000 tokens, 1000 a second", turns: 4, tokensPerTurn: 1000, rate: 1000 },
];
/** Episodes per call, as a training step of the shell suite has them. */
const BATCH = 256;
/** Calls that wait for their commit at once. */
const IN_FLIGHT = 4;

async function createRun(store: Store): Promise<string> {
  return store.createRun({
    name: "bench",
    algorithm: "none",
    seed: 1,
    configToml: "",
    configHash: "bench",
    outDir: "/nowhere",
    isolation: "none",
    steps: 1,
    aleVersion: "bench",
  });
}

function template(kind: Case): Trajectory[] {
  return Array.from({ length: BATCH }, (_, i) =>
    sampleTrajectory({
      ...{ id: `${i}`, group: `${i >> 3}`, member: i % 8, family: "count-lines", split: "train", seed: i, version: 1 },
      ...{ solved: i % 2 === 0, turns: kind.turns, tokensPerTurn: kind.tokensPerTurn },
    }),
  );
}

async function measure(kind: Case, seconds: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ale-bench-store-"));
  try {
    await using store = await openStore(join(folder, "ale.db"));
    const runId = await createRun(store);
    const base = template(kind);
    const write = (step: number) =>
      store.writeEpisodes(
        runId,
        step,
        "train",
        base.map((one) => ({ ...one, episodeId: `${step}/${one.episodeId}`, groupId: `${step}/${one.groupId}` })),
      );
    await write(0);
    const cpu = process.cpuUsage();
    const started = performance.now();
    const elapsed = () => (performance.now() - started) / 1000;
    let step = 0;
    const inFlight: Promise<void>[] = [];
    while (elapsed() < seconds) {
      inFlight.push(write(++step));
      if (inFlight.length >= IN_FLIGHT) await inFlight.shift();
      const ahead = kind.rate === undefined ? 0 : (step * BATCH * kind.turns) / kind.rate - elapsed();
      if (ahead > 0) await Bun.sleep(ahead * 1000);
    }
    await Promise.all(inFlight);
    const wall = elapsed();
    const used = process.cpuUsage(cpu);
    const turns = step * BATCH * kind.turns;
    const bytes = statSync(join(folder, "ale.db")).size;
    console.log(
      JSON.stringify({
        case: kind.name,
        turnsPerSecond: Math.round(turns / wall),
        coreShare: Number(((used.user + used.system) / 1e6 / wall).toFixed(3)),
        bytesPerTurn: Math.round(bytes / turns),
      }),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const seconds = Number(process.argv[2] ?? 5);
for (const kind of CASES) await measure(kind, seconds);
