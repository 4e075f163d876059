/** What is compared: arms of an experiment, each a few settings away from its file. */

import { ALGORITHM_TYPES } from "../../src/config/algorithm.ts";
import type { Measure } from "./outcome.ts";

export interface Arm {
  readonly name: string;
  /** Experiment file. */
  readonly file: string;
  /** `key=value`, as after `--` on the command line. */
  readonly overrides: readonly string[];
}

export interface Plan {
  readonly about: string;
  readonly seeds: readonly number[];
  readonly arms: readonly Arm[];
  /** Commands executed in training at which arms are compared; the end of each run when omitted. */
  readonly envSteps?: number;
  /** Columns of the table besides success. */
  readonly measures?: readonly Measure[];
}

const FIVE = [1, 2, 3, 4, 5];
/** For the fork and hard suites: none that a pilot had. */
const UNSEEN = [31, 32, 33, 34, 35];
const SHELL = "experiments/shell.toml";
const FORK_GRPO = "experiments/fork-grpo.toml";
const FORK_IPA = "experiments/fork-ipa.toml";
const HARD = "experiments/hard-parallel.toml";
const LONG_TAIL = "experiments/long-tail.toml";

/** Commands after which the fork suite's arms are compared. Chosen before any of their runs. */
export const FORK_BUDGET = 40_000;

const arm = (name: string, file: string, ...overrides: string[]): Arm => ({ name, file, overrides });

/** Steps and evaluations of the hard suite's experiments. */
const HARD_LENGTH = ["trainer.steps=400", "evaluation.every=100", "evaluation.heldout=128"];

/**
 * 30 steps of 256 episodes on two engines, by which most of it is learned: earlier, what is trained late is behind by what was
 * learned in as many steps (`docs/learning.md`).
 */
const LONG_TAIL_LENGTH = [
  ...[
    "trainer.steps=30",
    "trainer.minibatches=1",
    "evaluation.every=10",
    "evaluation.dev=0",
    "rollout.concurrency=512",
  ],
  ...['engine.devices=["cpu","cpu"]', "engine.threads=1", "rollout.episodeSeconds=60", "evaluation.greedy=false"],
];

/** The shell suite's comparisons: by step 20 to 30 the shipped warm start has learned most of it. */
const SHELL_LENGTH = [
  "trainer.steps=30",
  "evaluation.every=10",
  "evaluation.dev=0",
  "evaluation.heldout=210",
  "evaluation.greedy=false",
];

/** 20 steps of 128 episodes. Latency makes episodes last long enough to see an update between two turns. */
const AFTER_SYNC_LENGTH = [
  ...["trainer.steps=20", "rollout.groups=16", "rollout.concurrency=256"],
  ...["evaluation.every=0", "evaluation.dev=0", "evaluation.heldout=210", "evaluation.greedy=false"],
];

/** One arm per value of a setting. */
const sweep = (file: string, key: string, values: readonly (string | number)[]): Arm[] =>
  values.map((value) => arm(`${key}=${value}`, file, `${key}=${value}`));

export const PLANS: Readonly<Record<string, Plan>> = {
  headline: { about: "GRPO on the shell suite", seeds: FIVE, arms: [arm("grpo", SHELL)] },
  algorithms: {
    about: "every algorithm type on the shell suite, with its defaults, 30 steps",
    seeds: [1],
    arms: ALGORITHM_TYPES.map((type) => arm(type, SHELL, `algorithm.type=${type}`, ...SHELL_LENGTH)),
  },
  fork: {
    about: "GRPO, REINFORCE and IPA with resampling on the fork suite, at equal environment steps",
    seeds: UNSEEN,
    envSteps: FORK_BUDGET,
    arms: [arm("grpo", FORK_GRPO), arm("ipa", FORK_IPA), arm("reinforce", FORK_GRPO, "algorithm.type=reinforce")],
  },
  hard: {
    about: "the hard suite: GRPO alone, sequential rollback, parallelised initialisation",
    seeds: UNSEEN,
    arms: [
      arm("sequential", "experiments/hard-rollback.toml"),
      arm("parallel", HARD),
      arm("grpo", FORK_GRPO, "tasks.suite=tasks/hard", "rollout.groups=4", ...HARD_LENGTH),
    ],
  },
  "ablation-gamma": {
    about: "γ per turn of IPA, on the fork suite",
    seeds: UNSEEN,
    envSteps: FORK_BUDGET,
    arms: sweep(FORK_IPA, "algorithm.discount", [0.8, 0.9, 0.95, 1]),
  },
  "ablation-H": {
    about: "upper bound of IPA's mismatch mask, on the fork suite with asynchronous rollout, where weights differ",
    seeds: UNSEEN,
    envSteps: FORK_BUDGET,
    arms: sweep(FORK_IPA, "algorithm.mismatchHigh", [1.01, 1.05, 1.2, 100]).map((one) => ({
      ...one,
      overrides: [...one.overrides, "async.ratio=2"],
    })),
  },
  "ablation-lambda": {
    about: "weight of imitation beside reinforcement, on the fork suite",
    seeds: UNSEEN,
    envSteps: FORK_BUDGET,
    arms: sweep(FORK_IPA, "resampling.imitation", [0, 0.03, 0.1, 0.3, 1]),
  },
  "ablation-anchors": {
    about: "number and place of the anchors of parallelised initialisation, on the fork suite",
    seeds: UNSEEN,
    envSteps: FORK_BUDGET,
    arms: [
      ...sweep(FORK_IPA, "resampling.anchors", [1, 3, 6]),
      arm("3, random", FORK_IPA, "resampling.anchors=3", "resampling.spacing=random"),
    ],
  },
  "long-tail": {
    about:
      "what training late costs in success, at equal episodes: ratio 4 on the shell suite with long-tailed latency",
    seeds: FIVE,
    arms: [
      arm("synchronous", LONG_TAIL, ...LONG_TAIL_LENGTH),
      arm("shared", LONG_TAIL, ...LONG_TAIL_LENGTH, "async.ratio=4"),
      arm("elastic", LONG_TAIL, ...LONG_TAIL_LENGTH, "async.ratio=4", "engine.placement=elastic"),
    ],
  },
  "async-ratio": {
    about: "steps that rollout may be ahead, with and without corrections, on the shell suite, 30 steps",
    seeds: FIVE,
    arms: [
      ...sweep(SHELL, "async.ratio", [0, 1, 2, 4]),
      ...sweep(SHELL, "async.ratio", [1, 2, 4]).map((one) => ({
        ...one,
        name: `${one.name}, corrected`,
        overrides: [...one.overrides, "algorithm.type=decoupled_ppo"],
      })),
    ].map((one) => ({ ...one, overrides: [...one.overrides, ...SHELL_LENGTH] })),
  },
  "after-sync": {
    about:
      "contexts cached under older weights, computed again or kept at the next turn, on the shell suite with long-tailed latency",
    seeds: FIVE,
    measures: [
      ...(["perf/episodes_per_second", "async/staleness/mean", "perf/kv/reprefill_tokens"] as const),
      ...(["rollout_corr/cache_mix/tokens", "rollout_corr/cache_mix/kl"] as const),
    ],
    arms: [1, 2, 4].flatMap((ratio) =>
      ["recompute", "keep"].map((afterSync) =>
        arm(
          `ratio ${ratio} ${afterSync}`,
          LONG_TAIL,
          ...[...AFTER_SYNC_LENGTH, `async.ratio=${ratio}`, `engine.afterSync=${afterSync}`],
        ),
      ),
    ),
  },
};
