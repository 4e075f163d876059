/**
 * A process that uses a store until it is killed. `bun store-child.ts PATH hold` makes a run and waits; `… commit RUN` goes
 * on with a run, step by step, printing each step after its commit. `… write` makes a run of twenty steps and ends.
 */

import { openStore } from "../src/store/store.ts";
import { sampleTrajectory, writeSampleRun } from "./sample-run.ts";

const [path = "", mode, run = ""] = process.argv.slice(2);
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
  const last = (await store.lastCommitted(run))?.step ?? 0;
  await store.truncateAfter(run, last);
  for (let step = last + 1; ; step++) {
    const episodes = Array.from({ length: 24 }, (_, member) =>
      sampleTrajectory({
        ...{ id: `${run}/${step}/${member}`, group: `${run}/${step}`, member, family: "f", split: "train", seed: step },
        ...{ solved: member % 2 === 0, version: step - 1 },
      }),
    );
    await store.writeEpisodes(run, step, "train", episodes.slice(0, 12));
    await store.writeEpisodes(run, step, "train", episodes.slice(12));
    await store.commitStep(run, step, { metrics: { step, half: step / 2 }, weightVersion: step, wallSeconds: step });
    console.log(step);
  }
}
