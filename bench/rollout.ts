/**
 * Synchronous and asynchronous training under long-tailed latencies, beside what the simulator predicts (`docs/throughput.md`).
 *
 * `bun run bench:rollout -- [--json] [--laws A,B,C] [--seeds 1,2,3,4,5] [--steps 40] [--modes sync,…] [--ratio 4]
 * [--heldout 420] [--decode-ms 7 | --layers N] [--ale PATH]`: real runs of the product, in processes of their own, the modes taking turns.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { throughputBound } from "./rollout/bound.ts";
import { type Calibration, calibrate } from "./rollout/calibration.ts";
import { deepenPolicy, plainAdapter } from "./rollout/deep-policy.ts";
import { depthFor } from "./rollout/depth.ts";
import { LAWS, type LawName } from "./rollout/laws.ts";
import { commonSettings, DECODE_MS, lawSettings, MODES, modeSettings, RATIO, scheduleOf } from "./rollout/modes.ts";
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
    "decode-ms": { type: "string", default: String(DECODE_MS) },
    layers: { type: "string" },
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
  --decode-ms ${DECODE_MS}       what a decode step of the policy takes: two short runs find out how many layers that is here
  --layers N          so many layers, whatever they take
  --ale PATH          the executable to measure, instead of this checkout
  --json              the report as JSON`);
  process.exit(0);
}

const PLAIN = join(import.meta.dir, "../models/shell-start");
const PLAIN_LAYERS: number = (await Bun.file(join(PLAIN, "config.json")).json()).num_hidden_layers;
const COMMAND = options.ale === undefined ? [process.execPath, join(import.meta.dir, "../src/main.ts")] : [options.ale];
const steps = wholeNumber("steps", options.steps, UNMEASURED + 2);
const heldout = wholeNumber("heldout", options.heldout, 1);
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

const layers =
  options.layers === undefined
    ? await depthFor(positive("decode-ms", options["decode-ms"]), { command: COMMAND, plain: PLAIN }, (pilot) =>
        console.error(`${pilot.layers} layers: a decode step takes ${pilot.decodeMs.toFixed(1)} ms`),
      )
    : wholeNumber("layers", options.layers, PLAIN_LAYERS);
const rows: Row[] = [];
for (const seed of listOf(options.seeds).map((text) => wholeNumber("seeds", text, 0))) {
  for (const law of laws) rows.push(...(await compareModes(law, seed)));
}
if (options.json) console.log(JSON.stringify({ layers, ...report(rows) }));
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
        decodeMs: own.costs.decode.base + own.costs.decode.perRow * own.costs.slots,
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

function positive(name: string, text: string): number {
  const value = Number(text);
  if (value > 0) return value;
  throw new Error(`--${name}: ${text} is not a number above 0`);
}

function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= least) return value;
  throw new Error(`--${name}: ${text} is no whole number of at least ${least}`);
}
