/**
 * Kills runs at random moments and checks that nothing is lost or counted twice: `bun run bench chaos [--kills 100] [--seed 1]
 * [--series NAME] [--json] [--help]`
 *
 * Of the kills 40 % hit control, 30 % an engine, 15 % the launcher and 15 % a sandbox. Half of the kills hit asynchronous runs on
 * two engines, half synchronous ones with `deterministic = true`, whose final
 * metrics have to be those of an undisturbed run to the bit. The runs are real ones, of the executable where there is one.
 * Exit code 1 when anything is wrong.
 */

import { existsSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ChaosSeries, type SeriesResult } from "../test/run/chaos/driver.ts";
import { SERIES } from "../test/run/chaos/series.ts";

const { values: options } = parseArgs({
  options: {
    kills: { type: "string", default: "100" },
    seed: { type: "string", default: "1" },
    series: { type: "string" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (options.help) {
  console.log(`bun run bench chaos [--kills 100] [--seed 1] [--series ${SERIES.map(({ name }) => name).join("|")}] [--json]

Kills runs of dist/ale (this checkout where it was not built) at moments drawn from the seed, names every kill as it happens,
and checks every run. 100 kills take about four minutes on two cores; a part of them is a series, or fewer kills of another seed.`);
  process.exit();
}

const executable = join(import.meta.dir, "../dist/ale");
const command = existsSync(executable) ? [executable] : undefined;
const chosen = SERIES.filter(({ name }) => options.series === undefined || options.series === name);

function show({ name, kills, runs, resumes, steps, episodes, goneMs, seconds, violations }: SeriesResult): void {
  const { control, engine, launcher, sandbox } = kills;
  console.log(
    `${name.padEnd(14)} ${control + engine + launcher + sandbox} kills (control ${control}, engine ${engine}, launcher ${launcher}, ` +
      `sandbox ${sandbox}) in ${runs} runs: ${resumes} resumes, ${steps} steps, ${episodes} episodes; all gone ` +
      `${Math.round(goneMs)} ms after a kill of control at most; ${violations.length} violations; ${Math.round(seconds)} s`,
  );
}

const results: SeriesResult[] = [];
for (const [i, series] of chosen.entries()) {
  const kills = Math.floor((Number(options.kills) + i) / chosen.length);
  const report = (line: string) => console.error(line);
  const result = await new ChaosSeries(series, Number(options.seed), report, command).run(kills);
  results.push(result);
  if (!options.json) show(result);
}
const violations = results.flatMap((result) => result.violations);
const load = loadavg()[0];
if (options.json) console.log(JSON.stringify({ seed: Number(options.seed), load, series: results }));
else console.log(`load ${load?.toFixed(1)}, ${command === undefined ? "source" : "executable"}`);
process.exitCode = violations.length === 0 ? 0 : 1;
