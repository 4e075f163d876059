/** The kills of `bun run bench chaos`, some of them: nothing lost, nothing counted twice, nothing left on the machine. */

import { expect, test } from "bun:test";
import { ChaosSeries } from "./chaos/driver.ts";
import { SERIES } from "./chaos/series.ts";

const KILLS_PER_SERIES = 4;
const STEPS = 4;

for (const series of SERIES) {
  test(`${series.name} runs survive kills at random moments`, async () => {
    const seed = Date.now() % 1_000_000;
    const said: string[] = [];
    const small = { ...series, shape: { ...series.shape, steps: STEPS } };
    const result = await new ChaosSeries(small, seed, (line) => said.push(line)).run(KILLS_PER_SERIES);
    if (result.violations.length > 0) console.log([`seed ${seed}`, ...said].join("\n"));
    expect(result.violations).toEqual([]);
    expect(Object.values(result.kills).reduce((sum, count) => sum + count, 0)).toBe(KILLS_PER_SERIES);
  }, 300_000);
}
