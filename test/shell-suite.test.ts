/** Every demonstration of the shipped suites, in plain bash, for every split: experts pass, mistakes fail. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { SPLITS } from "../src/core/types.ts";
import { checkSuite, passesCheck } from "../src/tasks/check.ts";
import { loadSuite } from "../src/tasks/suite.ts";
import { gradePlainly, PlainBashProvider, rewardOf } from "./support/plain-bash.ts";

const suites = ["shell", "fork", "hard"].map((name) => loadSuite(join(import.meta.dir, "../tasks", name)));
const SEEDS = [0, 1];

for (const [suite, family] of suites.flatMap((suite) => suite.families.map((family) => [suite, family] as const))) {
  test(`${suite.name}/${family}: experts pass and mistakes fail`, async () => {
    const wrong: string[] = [];
    for (const task of SPLITS.flatMap((split) => SEEDS.map((seed) => suite.render(family, split, seed)))) {
      const rewards = await Promise.all(task.demonstrations.map(({ commands }) => rewardOf(task, commands)));
      task.demonstrations.forEach(({ kind, commands }, i) => {
        if (rewards[i] !== (kind === "expert" ? 1 : 0)) wrong.push(`${task.id}: ${commands.join("; ")}`);
      });
    }
    expect(wrong).toEqual([]);
  }, 30_000);
}

test.each(suites)(
  "$name: oracles score 1 and doing nothing 0",
  async (suite) => {
    const seen: string[] = [];
    const samples = suite.families.length * 6;
    const options = { samples, concurrency: 4, seed: 100, signal: new AbortController().signal };
    const rows = await checkSuite(suite, new PlainBashProvider(), gradePlainly, options, (row) => seen.push(row.task));
    expect(rows.filter((row) => !passesCheck(row))).toEqual([]);
    expect(seen.sort()).toEqual(rows.map(({ task }) => task).sort());
    const met = new Set(rows.map(({ task }) => task.split("/").slice(1, 3).join()));
    expect(met.size).toBe(suite.families.length * 3);
  },
  60_000,
);
