/** Learning compared over seeds: success at equal cost, with 95 % intervals; resumable (`docs/learning.md`). */

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { loadExperiment } from "../src/config/load.ts";
import { curvesSvg, PICTURES, type PictureName } from "./learning/curves.ts";
import { type Arm, PLANS, type Plan } from "./learning/plans.ts";
import { type Result, Results } from "./learning/results.ts";
import { runToEnd } from "./learning/run.ts";
import { summarizeArm, table } from "./learning/table.ts";

const REPOSITORY = join(import.meta.dir, "..");
const HELP = `bun run bench learning -- PLAN [--seeds 1,2,3] [--arms NAME,…] [--out DIR] [--report] [--json] [--svg FILE [--draw WHAT]]
                               [--ale PATH]

Runs a plan's arms, one seed after the other, and appends each finished run to DIR/results.jsonl. Started again it goes on where
it was stopped, in the middle of a run as well. Settings are part of a run's identity: changed ones are run anew.

  --seeds   instead of the plan's
  --arms    only these
  --out     folder of runs and results (runs/learning)
  --report  run nothing, print what there is
  --json    print as JSON
  --svg     draw the curves as well: one panel per arm
  --draw    what --svg draws: ${Object.keys(PICTURES).join(", ")} (success)
  --ale     program to run (dist/ale where it was built, else this checkout)

${Object.entries(PLANS)
  .map(([name, { about, seeds, arms }]) => `  ${name.padEnd(18)}${about}; ${arms.length} arms × ${seeds.length} seeds`)
  .join("\n")}`;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string" },
    arms: { type: "string" },
    out: { type: "string", default: join(REPOSITORY, "runs/learning") },
    report: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    svg: { type: "string" },
    draw: { type: "string", default: "success" },
    ale: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const [name] = positionals;
const plan = name === undefined ? undefined : PLANS[name];
if (flags.help || plan === undefined) {
  if (!flags.help && name !== undefined) console.error(`there is no plan ${name}`);
  console.log(HELP);
  process.exitCode = flags.help ? 0 : 2;
} else {
  process.exitCode = await compare(plan);
}

/** Returns the exit code: 1 when a run failed; the others are run all the same. */
async function compare(plan: Plan): Promise<number> {
  const out = resolve(flags.out);
  mkdirSync(out, { recursive: true });
  const results = new Results(join(out, "results.jsonl"));
  const arms = chooseArms(plan);
  const picture = pictureOf(flags.draw);
  const seeds = flags.seeds?.split(",").map(wholeNumber) ?? plan.seeds;
  let failed = 0;
  // Seed by seed, so that a plan that is stopped early has all arms of the seeds it got to.
  for (const seed of flags.report ? [] : seeds) {
    for (const arm of arms) failed += (await runArm(arm, seed, results, out)) ? 0 : 1;
  }
  const finished = arms
    .map((arm) => ({ arm, done: seeds.flatMap((seed) => results.get(hashOf(arm, seed)) ?? []) }))
    .filter(({ done }) => done.length > 0);
  const summaries = finished.map(({ arm, done }) => summarizeArm(arm, done, plan.envSteps));
  if (flags.svg !== undefined) {
    const curves = finished.map(({ arm, done }) => ({ arm: arm.name, results: done }));
    writeFileSync(flags.svg, curvesSvg(plan, curves, picture));
  }
  console.log(flags.json ? JSON.stringify(summaries) : table(plan, summaries));
  return failed === 0 ? 0 : 1;
}

async function runArm(arm: Arm, seed: number, results: Results, out: string): Promise<boolean> {
  const configHash = hashOf(arm, seed);
  if (results.get(configHash) !== undefined) return true;
  console.error(`${arm.name}, seed ${seed}: running`);
  try {
    const overrides = settingsOf(arm, seed);
    const folder = join(out, configHash.slice(0, 16));
    const outcome = await runToEnd({ command: program(), file: arm.file, overrides, folder });
    const result: Result = { configHash, arm: arm.name, seed, ...outcome };
    results.add(result);
    const last = outcome.curve.at(-1);
    console.error(`${arm.name}, seed ${seed}: ${last?.rate.toFixed(3)} in ${outcome.wallSeconds.toFixed(0)} s`);
    return true;
  } catch (error) {
    console.error(`${arm.name}, seed ${seed}: failed: ${error instanceof Error ? error.message : error}`);
    return false;
  }
}

function settingsOf(arm: Arm, seed: number): string[] {
  return [...arm.overrides, `seed=${seed}`];
}

function hashOf(arm: Arm, seed: number): string {
  return loadExperiment({ files: [join(REPOSITORY, arm.file)], overrides: settingsOf(arm, seed) }).hash;
}

function chooseArms(plan: Plan): readonly Arm[] {
  const wanted = flags.arms?.split(",");
  if (wanted === undefined) return plan.arms;
  return wanted.map((name) => {
    const arm = plan.arms.find((one) => one.name === name);
    if (arm !== undefined) return arm;
    throw new Error(`--arms: there is no arm ${name}; there are ${plan.arms.map((one) => one.name).join(", ")}`);
  });
}

function pictureOf(name: string): PictureName {
  if (Object.hasOwn(PICTURES, name)) return name as PictureName;
  throw new Error(`--draw: there is no picture ${name}; there are ${Object.keys(PICTURES).join(", ")}`);
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 0) return value;
  throw new Error(`--seeds: ${text} is not a whole number`);
}

function program(): readonly string[] {
  if (flags.ale !== undefined) return [resolve(flags.ale)];
  const built = join(REPOSITORY, "dist/ale");
  return existsSync(built) ? [built] : [process.execPath, join(REPOSITORY, "src/main.ts")];
}
