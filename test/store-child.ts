/**
 * A process that uses a store until it is killed. `bun store-child.ts PATH hold` makes a run and waits; `… commit RUN LOAD` goes
 * on with a run under a load, step by step, printing each step and the turns written so far after its commit. `… write` makes a
 * run of twenty steps and ends.
 */

import { openStore } from "../src/store/store.ts";
import { sampleTrajectory, writeSampleRun } from "./sample-run.ts";
import { LOADS } from "./store-loads.ts";

const [path = "", mode, run = "", load = "small"] = process.argv.slice(2);
const store = await openStore(path);

if (mode === "hold") {
  const id = await store.createRun({
    ...{ name: "held", algorithm: "grpo", seed: 1, configToml: "", configHash: "held", outDir: "/x" },
    ...{ isolation: "none", steps: 1, aleVersion: "0" },
  });
  console.log(id);
  await Bun.sleep(60_000);
} else if (mode === "write") {
  await writeSampleRun(store, { name: `child-${process.pid}`, steps: 20, groups: 2, groupSize: 3, evaluations: 0 });
  await store.close();
} else {
  await store.claimRun(run);
  const { episodes, turns, tokensPerTurn, turnsPerSecond } = LOADS[load as keyof typeof LOADS];
  const base = Array.from({ length: episodes }, (_, i) =>
    sampleTrajectory({
      ...{ id: `${i}`, group: `${i >> 3}`, member: i % 8, family: "f", split: "train", seed: i, solved: i % 2 === 0 },
      ...{ version: 1, turns, tokensPerTurn },
    }),
  );
  const last = (await store.lastCommitted(run))?.step ?? 0;
  await store.truncateAfter(run, last);
  const started = performance.now();
  for (let step = last + 1; ; step++) {
    const named = base.map((one) => ({
      ...one,
      episodeId: `${run}/${step}/${one.episodeId}`,
      groupId: `${run}/${step}/${one.groupId}`,
    }));
    const half = episodes >> 1;
    await Promise.all([
      store.writeEpisodes(run, step, "train", named.slice(0, half)),
      store.writeEpisodes(run, step, "train", named.slice(half)),
    ]);
    await store.commitStep(run, step, { metrics: { step, half: step / 2 }, weightVersion: step, wallSeconds: step });
    const written = (step - last) * episodes * turns;
    console.log(step, written, performance.now() - started);
    if (turnsPerSecond !== undefined) {
      await Bun.sleep(Math.max(0, (1000 * written) / turnsPerSecond - (performance.now() - started)));
    }
  }
}
