/**
 * `bun bench/train-step.ts [--python PATH] [--size NAME] [--lora RANK] [--rounds N] [--steps N] [--threads N]`: one training
 * step (forward, backward, clipping, AdamW) of the shipped model, or of a size of `ale bench engine`, beside PyTorch's eager
 * mode. With `--lora` adapters of that rank on all projections are trained and the model is frozen; `--layers`, `--rows` and
 * `--length` cut a size down. Both run in processes of their own, take turns, and work on the same shape; reported is the
 * median of the rounds, and the ratio torch / ale.
 */

import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MODEL_SIZES } from "../src/cli/benches/model-sizes.ts";
import { configFromPreset, type DecoderConfig } from "../src/models/config.ts";
import { type AdaptedBase, FrozenParameters } from "../src/models/frozen-parameters.ts";
import { adaptersFor, initializeAdapters, loraTargets } from "../src/models/lora.ts";
import { ParameterStore, type Slot } from "../src/models/parameter-store.ts";
import { type ParameterLayout, parameterLayout, parameterView } from "../src/models/parameters.ts";
import { Learner } from "../src/trainer/learner.ts";
import { median, Peer } from "./peers.ts";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    rounds: { type: "string", default: "11" },
    steps: { type: "string", default: "10" },
    threads: { type: "string", default: "2" },
    size: { type: "string", default: "shell" },
    micro: { type: "string" },
    lora: { type: "string", default: "0" },
    layers: { type: "string" },
    rows: { type: "string" },
    length: { type: "string" },
    executor: { type: "string", default: "graph" },
    "warm-up": { type: "string", default: "5" },
    worker: { type: "boolean", default: false },
  },
});

const { config, rows, length } = chooseSize(options.size);
const threads = Number(options.threads);

interface Size {
  readonly config: DecoderConfig;
  readonly rows: number;
  readonly length: number;
}

function chooseSize(name: string): Size {
  const preset = join(import.meta.dir, "../models/shell.toml");
  if (name === "shell") return { config: configFromPreset(readFileSync(preset, "utf8"), preset), rows: 32, length: 64 };
  const size = MODEL_SIZES.find((candidate) => candidate.name === name);
  if (size === undefined) throw new Error(`--size: shell, ${MODEL_SIZES.map((each) => each.name).join(", ")}`);
  const { layers = size.config.layers, rows = size.train.batch, length = size.train.length } = options;
  return { config: { ...size.config, layers: Number(layers) }, rows: Number(rows), length: Number(length) };
}

/** Milliseconds per step of one round. */
interface Round {
  readonly wall: number;
  readonly cpu: number;
}

/** Weights of the usual spread; drawing half a billion of them from a normal distribution would take minutes. */
function fillQuickly(layout: ParameterLayout, flat: Float32Array): void {
  let state = 1;
  for (const { name, kind, shape } of layout.entries) {
    const view = parameterView(layout, flat, name);
    const spread = kind === "norm" ? 0 : (shape[1] ?? 1) ** -0.5;
    for (let i = 0; i < view.length; i++) {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
      view[i] = (kind === "norm" ? 1 : 0) + spread * ((2 * state) / 0x7fffffff - 1);
    }
  }
}

/** Random weights to train: all of them, or adapters on a frozen model. */
function makeWeights(): { readonly store: ParameterStore; readonly base?: AdaptedBase } {
  const layout = parameterLayout(config);
  const fill = (flat: Float32Array) => fillQuickly(layout, flat);
  const rank = Number(options.lora);
  if (rank === 0) {
    const store = ParameterStore.inMemory(layout);
    fill(store.parameters(0));
    return { store };
  }
  const adapters = adaptersFor(config, { rank, alpha: 2 * rank, rslora: false, targets: loraTargets(config) });
  const store = ParameterStore.inMemory(adapters.layout);
  initializeAdapters(adapters, store.parameters(0), 1);
  return { store, base: { parameters: FrozenParameters.inMemory(layout, fill), adapters } };
}

/** The Ale side: one line in (number of steps), one line out (`wall cpu loss`). */
async function work(): Promise<void> {
  const { store, base } = makeWeights();
  const learner = new Learner(config, store, {
    threads,
    base,
    executor: options.executor === "layers" ? "layers" : "graph",
    maxTokensPerMicroBatch: Number(options.micro ?? rows * length),
  });
  const sequences = Array.from({ length: rows }, (_, r) =>
    Int32Array.from(
      { length: length + 1 },
      (_, t) => (r * 7919 + t * 104_729 + ((r * t) % 13) * 31) % config.vocabularySize,
    ),
  );
  const weights = sequences.map(() => new Float32Array(length + 1).fill(1 / (rows * length)));
  const settings = { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 1 } as const;
  let slot: Slot = 0;
  const step = () => {
    const { loss } = learner.backward(sequences, weights, slot);
    const target = store.targetFor(slot);
    learner.step(settings, slot, target);
    slot = target;
    return loss;
  };
  console.log("ale");
  for await (const line of console) {
    const count = Number(line);
    const wall = performance.now();
    const cpu = process.cpuUsage();
    let loss = 0;
    for (let i = 0; i < count; i++) loss = step();
    const used = process.cpuUsage(cpu);
    const ms = (performance.now() - wall) / count;
    console.log(`${ms.toFixed(3)} ${((used.user + used.system) / 1000 / count).toFixed(3)} ${loss.toFixed(6)}`);
  }
}

async function main(): Promise<void> {
  const shape = {
    vocabulary: config.vocabularySize,
    hidden: config.hiddenSize,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    intermediate: config.intermediateSize,
    rows,
    length,
    threads,
    lora: Number(options.lora),
  };
  const ale = new Peer([process.execPath, import.meta.path, "--worker", ...process.argv.slice(2)]);
  const torch = new Peer([options.python, join(import.meta.dir, "train_step_torch.py"), JSON.stringify(shape)]);
  const names = [await ale.line(), await torch.line()];
  const hasTorch = names[1] !== "missing";
  if (!hasTorch) console.log(`${options.python} has no torch: Ale alone (give --python PATH for a comparison)`);
  const peers = hasTorch ? [ale, torch] : [ale];
  for (const peer of peers) await peer.ask(options["warm-up"]);
  const rounds = peers.map((): Round[] => []);
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [i, peer] of peers.entries()) {
      const [wall, cpu] = (await peer.ask(options.steps)) as [number, number];
      rounds[i]?.push({ wall, cpu });
    }
  }
  for (const peer of [ale, torch]) await peer.close();
  const load = loadavg().map((value) => value.toFixed(2));
  console.log(
    `shape ${JSON.stringify(shape)}, ${options.rounds} rounds of ${options.steps} steps, load ${load.join(" ")}`,
  );
  for (const [i, peerRounds] of rounds.entries()) {
    const wall = median(peerRounds.map((round) => round.wall));
    const cpu = median(peerRounds.map((round) => round.cpu));
    const fastest = Math.min(...peerRounds.map((round) => round.wall));
    console.log(
      `${names[i]}: median ${wall.toFixed(1)} ms per step (fastest ${fastest.toFixed(1)}), CPU time ${cpu.toFixed(1)} ms`,
    );
  }
  if (hasTorch) {
    const [ours, theirs] = rounds as [Round[], Round[]];
    const ratio = (of: (round: Round) => number) => median(ours.map((round, i) => of(theirs[i] as Round) / of(round)));
    console.log(`torch / ale: ${ratio((r) => r.wall).toFixed(2)} wall, ${ratio((r) => r.cpu).toFixed(2)} CPU time`);
  }
}

await (options.worker ? work() : main());
