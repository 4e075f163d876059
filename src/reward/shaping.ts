/**
 * Rewards of a step's episodes, put together as `[reward]` says. What was measured stays on the stored episodes; training
 * gets copies with the sum.
 */

import type { RewardConfig } from "../config/reward.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import { type Group, MACHINE_FAULTS, type Trajectory } from "../core/types.ts";
import type { ChatModel } from "../policy/chat-model.ts";
import { compare, judge } from "../policy/judge.ts";
import { effort, formatReward, lengthReward, outcomeReward, places, ringPairs, sampledTokens } from "./components.ts";

/** What a reward function is told of an episode. */
export interface RewardEpisode {
  readonly episode: string;
  readonly task: string;
  readonly family: string;
  readonly seed: number;
  readonly instruction: string;
  /** What the tests wrote. */
  readonly outcome: number;
  readonly scores: Readonly<Record<string, number>>;
  readonly tests: { readonly passed: number; readonly total: number } | null;
  readonly stopReason: string;
  readonly turns: readonly {
    readonly command: string;
    readonly observation: string;
    readonly exitCode: number | null;
  }[];
  /** Sampled ones. */
  readonly tokens: number;
}

export interface ShapingParts {
  /** Of `reward.judge`. */
  readonly judge?: ChatModel | undefined;
  /** Of `reward.ranking`. */
  readonly rankingJudge?: ChatModel | undefined;
  /** `reward.function`. @throws AleError when it failed */
  readonly call?: ((episode: RewardEpisode) => Promise<number>) | undefined;
  readonly instructionOf: (trajectory: Trajectory) => string;
  /** Whether its reward is a punishment, which nothing else may outweigh. */
  readonly isPunished?: (trajectory: Trajectory) => boolean;
  readonly signal: AbortSignal;
}

/** Groups of the step, and of those that began in an expert's states. */
interface Collected {
  readonly groups: readonly Group[];
  readonly forks: readonly Group[];
  readonly metrics: Readonly<Record<string, number>>;
}

const COMPONENTS = ["outcome", "format", "length", "judge", "ranking", "function"] as const;
type Component = (typeof COMPONENTS)[number];

/** Weighted parts of one episode's reward. */
type Parts = Partial<Record<Component, number>>;

const JUDGE_TOKENS = 1024;
/** Share of judgements that may fail before the run stops: from then on it would train on something else. */
const MAX_FAILED = 0.5;

/**
 * Returns the step with rewards as they are trained on and a metric for each component: the mean of what it contributes, so
 * that `reward/total` is the sum of the others.
 *
 * @throws AleError when the function failed, or the judge for more than half of the episodes
 */
export async function shapeRewards<T extends Collected>(
  step: T,
  config: RewardConfig | undefined,
  parts: ShapingParts,
): Promise<T> {
  const all = [...step.groups, ...step.forks];
  const scores = scoreMetrics(all);
  if (config === undefined) return { ...step, metrics: { ...step.metrics, ...scores } };
  const shaping = new Shaping(config, parts);
  const shaped = await Promise.all(all.map((group) => shaping.shape(group)));
  const groups = shaped.map(({ group }) => group);
  return {
    ...step,
    groups: groups.slice(0, step.groups.length),
    forks: groups.slice(step.groups.length),
    metrics: { ...step.metrics, ...scores, ...shaping.metrics(shaped.flatMap(({ rows }) => rows)) },
  };
}

/** Means of what verifiers wrote besides the reward. */
function scoreMetrics(groups: readonly Group[]): Record<string, number> {
  const sums = new Map<string, { sum: number; count: number }>();
  for (const { scores = {} } of groups.flatMap(({ trajectories }) => trajectories)) {
    for (const [key, score] of Object.entries(scores)) {
      const { sum, count } = sums.get(key) ?? { sum: 0, count: 0 };
      sums.set(key, { sum: sum + score, count: count + 1 });
    }
  }
  return Object.fromEntries([...sums].map(([key, { sum, count }]) => [`reward/${key}`, sum / count]));
}

class Shaping {
  readonly #config: RewardConfig;
  readonly #parts: ShapingParts;
  /** Questions to a judge, and why some had no answer. */
  readonly #asked = { judge: 0, ranking: 0 };
  readonly #failures: { readonly judge: string[]; readonly ranking: string[] } = { judge: [], ranking: [] };

  constructor(config: RewardConfig, parts: ShapingParts) {
    this.#config = config;
    this.#parts = parts;
  }

  async shape(group: Group): Promise<{ readonly group: Group; readonly rows: readonly Parts[] }> {
    const { trajectories } = group;
    const [judged, ranked, called] = await Promise.all([
      this.#judge(trajectories),
      this.#rank(trajectories),
      Promise.all(trajectories.map((trajectory) => this.#call(trajectory))),
    ]);
    const rows: Parts[] = [];
    const shaped = trajectories.map((trajectory, i) => {
      if (isFault(trajectory)) return trajectory;
      const row = this.#isPunished(trajectory)
        ? { outcome: trajectory.reward }
        : { ...this.#own(trajectory), judge: judged[i], ranking: ranked[i], function: called[i] };
      const present = Object.fromEntries(Object.entries(row).filter(([, value]) => value !== undefined)) as Parts;
      rows.push(present);
      return { ...trajectory, reward: total(present) };
    });
    return { group: { ...group, trajectories: shaped }, rows };
  }

  #isPunished(trajectory: Trajectory): boolean {
    return this.#parts.isPunished?.(trajectory) ?? false;
  }

  /** Whether there is more to it than the outcome it has. */
  #counts(trajectory: Trajectory): boolean {
    return !isFault(trajectory) && !this.#isPunished(trajectory);
  }

  #own(trajectory: Trajectory): Parts {
    const { outcome, outcomeWeight, formatPenalty, length } = this.#config;
    return {
      outcome: outcomeWeight * outcomeReward(trajectory, outcome),
      ...(formatPenalty > 0 && { format: formatPenalty * formatReward(trajectory) }),
      ...(length && { length: length.penalty * lengthReward(trajectory, length) }),
    };
  }

  /** Where the judge said nothing, an episode gets the mean of its group: what is not known must not teach. */
  async #judge(trajectories: readonly Trajectory[]): Promise<(number | undefined)[]> {
    const { judge: settings } = this.#config;
    const model = this.#parts.judge;
    if (settings === undefined || model === undefined) return [];
    const { rubric, votes, weight, of } = settings;
    const how = {
      rubric,
      votes,
      temperature: votes > 1 ? 0.7 : 0,
      maxTokens: JUDGE_TOKENS,
      signal: this.#parts.signal,
    };
    const isAsked = (trajectory: Trajectory) => this.#counts(trajectory) && (of === "all" || isSolved(trajectory));
    const scores = await Promise.all(
      trajectories.map((trajectory) =>
        isAsked(trajectory)
          ? this.#ask(
              "judge",
              async () => (await judge(model, trajectory.episodeId, this.#material(trajectory), how)).score,
            )
          : undefined,
      ),
    );
    const known = scores.filter((score) => score !== undefined);
    const mean = known.reduce((sum, score) => sum + score, 0) / Math.max(1, known.length);
    return trajectories.map((trajectory, i) => weight * (isAsked(trajectory) ? (scores[i] ?? mean) : 0));
  }

  async #rank(trajectories: readonly Trajectory[]): Promise<(number | undefined)[]> {
    const { ranking } = this.#config;
    if (ranking === undefined) return [];
    const { by, among, weight } = ranking;
    const members = trajectories.flatMap((trajectory, i) =>
      this.#counts(trajectory) && (among === "all" || isSolved(trajectory)) ? [i] : [],
    );
    const ranked = members.map((i) => trajectories[i] as Trajectory);
    const values = by === "judge" ? await this.#tournament(ranked) : ranked.map((one) => -effort(one, by));
    const byMember = new Map(places(values).map((place, i) => [members[i], place]));
    return trajectories.map((_, i) => weight * (byMember.get(i) ?? 0));
  }

  /** Share of its comparisons that each member won. */
  async #tournament(members: readonly Trajectory[]): Promise<number[]> {
    const { ranking } = this.#config;
    const model = this.#parts.rankingJudge;
    if (ranking === undefined || model === undefined) return members.map(() => 0);
    const settings = {
      rubric: ranking.rubric ?? "",
      votes: 1,
      temperature: 0,
      maxTokens: JUDGE_TOKENS,
      signal: this.#parts.signal,
    };
    const won = members.map(() => 0);
    const met = members.map(() => 0);
    const meet = async ([a, b]: [number, number]) => {
      const pair = [members[a], members[b]] as [Trajectory, Trajectory];
      const key = `${pair[0].episodeId}/${pair[1].member}`;
      const texts = [this.#material(pair[0]), this.#material(pair[1])] as const;
      const share = (await this.#ask("ranking", () => compare(model, key, texts, settings))) ?? 0.5;
      won[a] = (won[a] as number) + share;
      won[b] = (won[b] as number) + 1 - share;
      for (const i of [a, b]) met[i] = (met[i] as number) + 1;
    };
    await Promise.all(ringPairs(members.length, ranking.opponents).map(meet));
    return won.map((wins, i) => wins / Math.max(1, met[i] as number));
  }

  /** An answer of a judge; `undefined` where there was none, which is counted. */
  async #ask(part: "judge" | "ranking", question: () => Promise<number | undefined>): Promise<number | undefined> {
    this.#asked[part]++;
    let why = "its answer could not be read";
    try {
      const answer = await question();
      if (answer !== undefined) return answer;
    } catch (error) {
      this.#parts.signal.throwIfAborted();
      why = errorMessage(error);
    }
    this.#failures[part].push(why);
    return undefined;
  }

  async #call(trajectory: Trajectory): Promise<number | undefined> {
    const { call } = this.#parts;
    if (call === undefined || !this.#counts(trajectory)) return undefined;
    const {
      episodeId,
      taskId,
      family,
      seed,
      reward,
      scores = {},
      tests = null,
      stopReason,
      turns,
      tokens,
    } = trajectory;
    const value = await call({
      ...{ episode: episodeId, task: taskId, family, seed, outcome: reward, scores, tests, stopReason },
      instruction: this.#parts.instructionOf(trajectory),
      turns: turns.map(({ command, observation, exitCode }) => ({ command, observation, exitCode })),
      tokens: sampledTokens(tokens),
    });
    return this.#config.functionWeight * value;
  }

  #material(trajectory: Trajectory): string {
    const steps = trajectory.turns.map(({ command, observation }) => `$ ${command}\n${observation}`);
    return `Task: ${this.#parts.instructionOf(trajectory)}\n\n${steps.join("\n")}\n(ended by ${trajectory.stopReason}; tests: ${trajectory.reward})`;
  }

  /** @throws AleError("remote") when the judge failed too often */
  metrics(rows: readonly Parts[]): Record<string, number> {
    const present = COMPONENTS.filter((name) => rows.some((row) => row[name] !== undefined));
    const mean = (of: (row: Parts) => number) => rows.reduce((sum, row) => sum + of(row), 0) / Math.max(1, rows.length);
    return {
      ...Object.fromEntries(present.map((name) => [`reward/${name}`, mean((row) => row[name] ?? 0)])),
      "reward/total": mean(total),
      ...this.#failed("judge"),
      ...this.#failed("ranking"),
    };
  }

  #failed(part: "judge" | "ranking"): Record<string, number> {
    const asked = this.#asked[part];
    if (asked === 0) return {};
    const failures = this.#failures[part];
    if (failures.length <= MAX_FAILED * asked) return { [`reward/${part}_failed`]: failures.length / asked };
    throw new AleError(
      "remote",
      `the judge of reward.${part} failed for ${failures.length} of ${asked} questions: ${failures[0]}`,
      {
        hint: "see to it, then ale resume",
      },
    );
  }
}

function total(row: Parts): number {
  return COMPONENTS.reduce((sum, name) => sum + (row[name] ?? 0), 0);
}

function isFault({ stopReason }: Trajectory): boolean {
  return MACHINE_FAULTS.has(stopReason);
}

function isSolved({ reward, stopReason }: Trajectory): boolean {
  return reward >= 1 && stopReason === "done";
}
