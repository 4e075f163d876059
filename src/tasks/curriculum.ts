/** Tasks by how much there is to learn from them. */

import type { CurriculumConfig } from "../config/tasks.ts";
import { hashKey, Rng } from "../core/rng.ts";
import type { Task } from "../core/types.ts";
import type { Suite } from "./suite.ts";

/** What has to survive the process; plain JSON. */
export interface CurriculumState {
  /** Per family: outcomes of its last episodes, 1 for a success. */
  readonly outcomes: Readonly<Record<string, readonly number[]>>;
  /** Per round that is not over: the family of each of its tasks. */
  readonly rounds: Readonly<Record<string, readonly string[]>>;
}

/** Episodes of a family before its pass rate is believed. */
const ENOUGH = 8;
/** Seeds of instances fit an int32 column. */
const SEED_LIMIT = 2 ** 31;

/**
 * Draws the tasks of a round, one per queue of the rollout: a family's chance is its weight in the suite, times `floor` where
 * its pass rate lies outside of [low, high]. A round is drawn when its first task is asked for, from what was noted until
 * then, and stays as it is.
 */
export class Curriculum {
  readonly #config: CurriculumConfig;
  readonly #suite: Suite;
  readonly #size: number;
  readonly #key: string;
  readonly #outcomes: Map<string, readonly number[]>;
  readonly #rounds: Map<number, readonly string[]>;

  /** @param size tasks per round. */
  constructor(config: CurriculumConfig, suite: Suite, size: number, seed: number, state?: CurriculumState) {
    this.#config = config;
    this.#suite = suite;
    this.#size = size;
    this.#key = `curriculum/${seed}`;
    this.#outcomes = new Map(Object.entries(state?.outcomes ?? {}));
    this.#rounds = new Map(Object.entries(state?.rounds ?? {}).map(([round, families]) => [Number(round), families]));
  }

  task(round: number, index: number): Task {
    const families = this.#rounds.get(round) ?? this.#draw(round);
    this.#rounds.set(round, families);
    const [hash] = hashKey(`${this.#key}/${round}/${index}`);
    return this.#suite.render(families[index] as string, "train", hash % SEED_LIMIT);
  }

  note(family: string, rewards: readonly number[]): void {
    const outcomes = rewards.map((reward) => (reward >= 1 ? 1 : 0));
    this.#outcomes.set(family, [...(this.#outcomes.get(family) ?? []), ...outcomes].slice(-this.#config.window));
  }

  /** Chance of each family at present; they sum to 1. */
  chances(): Readonly<Record<string, number>> {
    const weights = this.#suite.families.map((family) => this.#suite.weight(family) * this.#interest(family));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return Object.fromEntries(this.#suite.families.map((family, i) => [family, (weights[i] as number) / total]));
  }

  /** @param round the first one of which tasks may still be asked for. */
  state(round: number): CurriculumState {
    for (const old of this.#rounds.keys()) if (old < round) this.#rounds.delete(old);
    return { outcomes: Object.fromEntries(this.#outcomes), rounds: Object.fromEntries(this.#rounds) };
  }

  #interest(family: string): number {
    const outcomes = this.#outcomes.get(family) ?? [];
    if (outcomes.length < ENOUGH) return 1;
    const rate = outcomes.reduce((sum, outcome) => sum + outcome, 0) / outcomes.length;
    const { low, high, floor } = this.#config;
    return rate < low || rate > high ? floor : 1;
  }

  /** Systematic sampling: a family with chance p gets ⌊p · size⌋ or ⌈p · size⌉ of the tasks. */
  #draw(round: number): string[] {
    const rng = new Rng(`${this.#key}/${round}`);
    const offset = rng.next();
    const chances = Object.entries(this.chances());
    const families: string[] = [];
    let sum = 0;
    for (const [family, chance] of chances) {
      sum += chance;
      while (families.length < this.#size && families.length + offset < sum * this.#size) families.push(family);
    }
    // the last sum may miss 1 by a rounding
    while (families.length < this.#size) families.push((chances.at(-1) as [string, number])[0]);
    return rng.shuffle(families);
  }
}
