/**
 * Synchronous and asynchronous training under long-tailed latencies, beside what the simulator predicts (`docs/throughput.md`).
 *
 * `bun run bench:rollout -- [--json] [--laws A,B,C] [--seeds 1,2,3,4,5] [--steps 40] [--modes sync,…] [--ratio 4]
 * [--heldout 420] [--layers 64] [--ale PATH]`: real runs of the product, in processes of their own, the modes taking turns.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { throughputBound } from "./rollout/bound.ts";
import { type Calibration, calibrate } from "./rollout/calibration.ts";
import { deepenPolicy, plainAdapter } from "./rollout/deep-policy.ts";
import { LAWS, type LawName } from "./rollout/laws.ts";
import { commonSettings, LAYERS, lawSettings, MODES, modeSettings, RATIO, scheduleOf } from "./rollout/modes.ts";
import { evaluate, readRun, runProduct, UNMEASURED } from "./rollout/real-run.ts";
import { type Row, report, table } from "./rollout/report.ts";
import { simulate } from "./rollout/simulator.ts";

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    laws: { type: "string", default: "A,B,C" },
    seeds: { type: "string", default: "1,2,3,4,5" },
    steps: { type: "string", default: "40" },
    modes: { type: "string", default: MODES.map(({ name }) => name).join(",") },
    ratio: { type: "string", default: String(RATIO) },
    heldout: { type: "string", default: "420" },
    layers: { type: "string", default: String(LAYERS) },
    ale: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

if (options.help) {
  console.log(`bun run bench:rollout -- [options]: synchronous and asynchronous training under long-tailed latencies
  --laws A,B,C        laws of the environments' latency
  --seeds 1,2,3,4,5   one run per seed, law and mode: a minute each on two cores, three where synchronous
  --modes ${MODES.map(({ name }) => name).join(",")}
  --steps 40          training steps of a run; the first ${UNMEASURED} are not measured
  --ratio ${RATIO}           async.ratio of the asynchronous modes
  --heldout 420       held-out instances that the trained policy is evaluated on
  --layers ${LAYERS}         of the policy: how much work engines have, beside what sandboxes take from their cores
  --ale PATH          the executable to measure, instead of this checkout
  --json              the report as JSON`);
  process.exit(0);
}

const PLAIN = join(import.meta.dir, "../models/shell-start");
const PLAIN_LAYERS: number = (await Bun.file(join(PLAIN, "config.json")).json()).num_hidden_layers;
const COMMAND = options.ale === undefined ? [process.execPath, join(import.meta.dir, "../src/main.ts")] : [options.ale];
const steps = wholeNumber("steps", options.steps, UNMEASURED + 2);
const heldout = wholeNumber("heldout", options.heldout, 1);
const layers = wholeNumber("layers", options.layers, PLAIN_LAYERS);
const ratio = Number(options.ratio);
const laws = listOf(options.laws).map((name) => {
  if (Object.hasOwn(LAWS, name)) return name as LawName;
  throw new Error(`--laws: there is no law ${name}; there are ${Object.keys(LAWS).join(", ")}`);
});
const modes = listOf(options.modes).map((name) => {
  const mode = MODES.find((one) => one.name === name);
  if (mode !== undefined) return mode;
  throw new Error(`--modes: there is no mode ${name}; there are ${MODES.map((one) => one.name).join(", ")}`);
});

const rows: Row[] = [];
for (const seed of listOf(options.seeds).map((text) => wholeNumber("seeds", text, 0))) {
  for (const law of laws) rows.push(...(await compareModes(law, seed)));
}
if (options.json) console.log(JSON.stringify(report(rows)));
else console.log(table(rows));

/**
 * All modes under one law. The prediction is made from what the first of them cost; the bound from what each cost itself, so that
 * it is a bound even where the machine did something else meanwhile.
 */
async function compareModes(law: LawName, seed: number): Promise<Row[]> {
  const compared: Row[] = [];
  let first: Calibration | undefined;
  for (const mode of modes) {
    const folder = mkdtempSync(join(tmpdir(), "ale-bench-rollout-"));
    try {
      const policy = join(folder, "policy");
      await deepenPolicy(PLAIN, policy, layers);
      const settings = [...commonSettings(policy, steps, seed), ...lawSettings(law), ...modeSettings(mode, ratio)];
      const store = await runProduct(COMMAND, settings, folder);
      const adapter = join(folder, "plain");
      await plainAdapter(join(folder, "run", "policy"), adapter, PLAIN, PLAIN_LAYERS);
      const own = await calibrate(store, LAWS[law]);
      first ??= own;
      const schedule = scheduleOf(mode, ratio);
      const row = {
        ...{ name: mode.name, law, seed },
        measured: await readRun(store),
        reward: await evaluate(COMMAND, { policy: PLAIN, adapter }, heldout),
        predicted: simulate({ ...first, schedule }, steps - 1 - UNMEASURED, UNMEASURED),
        bound: throughputBound({ ...own, schedule }, [UNMEASURED + 1, steps - 1]),
      };
      compared.push(row);
      if (!options.json) console.error(table([row]));
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return compared;
}

function listOf(text: string): string[] {
  return text.split(",").map((part) => part.trim());
}

function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= least) return value;
  throw new Error(`--${name}: ${text} is no whole number of at least ${least}`);
}
