import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ALIASES, withAliases } from "./metric-names.ts";

test("a number stands under all its names, and no name stands for two", () => {
  const metrics = withAliases({ "critic/rewards/mean": 0.5, "val/heldout/sampled/mean": 0.25 });
  expect(metrics).toEqual({
    ...{ "critic/rewards/mean": 0.5, reward: 0.5, "critic/score/mean": 0.5, "rollout/score/mean": 0.5 },
    ...{ "reward/all/mean": 0.5, "reward/avg_raw_reward": 0.5, "env/all/reward/total": 0.5 },
    ...{ "val/heldout/sampled/mean": 0.25, "val-core/heldout/acc/mean@1": 0.25, "eval/heldout/avg@1": 0.25 },
  });
  const names = [...Object.keys(ALIASES), ...Object.values(ALIASES).flat()];
  expect(new Set(names).size).toBe(names.length);
});

test("a measured time has no name by which lines of a deterministic run would differ", () => {
  const isTimed = (name: string) => /^(timing_s|perf)\//.test(name);
  for (const [name, aliases] of Object.entries(ALIASES))
    for (const alias of aliases) expect([alias, isTimed(alias)]).toEqual([alias, isTimed(name)]);
});

test("the documentation has every name", () => {
  const text = readFileSync(join(import.meta.dir, "../../docs/metrics.md"), "utf8");
  for (const name of [...Object.keys(ALIASES), ...Object.values(ALIASES).flat()]) expect(text).toContain(`\`${name}\``);
});
