/** Simulated environments: they play episodes as the group queues hand them out, on whatever device is least loaded. */

import { Rng } from "../../src/core/rng.ts";
import { GroupQueues } from "../../src/rollout/group-queues.ts";
import { latencyOf } from "../../src/rollout/latency.ts";
import type { Clock } from "./clock.ts";
import type { Answer, Device } from "./device.ts";
import type { Pool } from "./placement.ts";
import { type EpisodeShape, type Setup, type TurnShape, tokensOf } from "./setup.ts";

/** A finished episode. */
export interface Finished {
  readonly group: string;
  readonly tokens: number;
  /** Version that sampled its first token, or wrote the oldest cache entry it used. */
  readonly oldest: number;
}

export type TrainingBatch = readonly Finished[];

type Queues = GroupQueues<Finished>;
type Advanced = ReturnType<Queues["advance"]>;
type Effects = Pick<Advanced, "served" | "batch">;

/** An episode under way. */
interface Episode {
  readonly environment: number;
  readonly group: string;
  readonly member: number;
  readonly shape: EpisodeShape;
  /** Undefined before its first token and after its last. */
  device: Device | undefined;
  answer: Answer | undefined;
  tokens: number;
  /** Version of the weights that computed its cache. */
  cached: number;
  oldest: number;
  /** When its time is over. */
  ends: number;
  state: "waiting" | "playing" | "over";
}

export class Environments {
  /** Weight version that generates. */
  version = 0;
  readonly #setup: Setup;
  readonly #clock: Clock;
  readonly #pool: Pool;
  readonly #queues: Queues;
  readonly #perGroup: number;
  readonly #members = new Map<string, number>();
  readonly #episodes = new Map<number, Episode>();
  /** Environments with an episode that wait for a place among `concurrency`. */
  readonly #waiting: Episode[] = [];
  #playing = 0;
  #isStarted = false;
  #onBatch: ((batch: TrainingBatch) => void) | undefined;

  constructor(setup: Setup, clock: Clock, pool: Pool) {
    const { groups, groupSize, acceptedShare } = setup.workload;
    const { ratio, policy } = setup.schedule;
    this.#setup = setup;
    this.#clock = clock;
    this.#pool = pool;
    // as in a run: every slot that a queue may have can be worked on at once
    this.#perGroup = (2 * Math.ceil(ratio) + 1) * groupSize;
    const options = { groups, groupSize, ratio, policy, environmentsPerGroup: this.#perGroup };
    const isAccepted = (group = "") => new Rng(`${group}/accepted`).next() < acceptedShare;
    const reject = ([first]: readonly Finished[]) => !isAccepted(first?.group);
    const queues = { ...options, redundancy: 0, slotsPerStep: 1, replace: true, reject };
    this.#queues = new GroupQueues(queues);
  }

  /** Training goes on to `step` and calls `onBatch` with the groups to train on as soon as there are enough. */
  collect(step: number, onBatch: (batch: TrainingBatch) => void): void {
    const { groups } = this.#setup.workload;
    const { dropped, ...effects } = this.#queues.advance(step);
    for (const environment of dropped.flatMap(({ working }) => working)) this.#cancel(environment);
    this.#apply(effects);
    if (!this.#isStarted) for (let i = 0; i < groups * this.#perGroup; i++) this.#request(i);
    this.#isStarted = true;
    this.#onBatch = onBatch;
    const batch = this.#queues.takeBatch(groups, step);
    if (batch !== undefined) this.#apply({ served: [], batch });
  }

  #apply({ served, batch }: Effects): void {
    for (const { environment, episode } of served) this.#begin(environment, episode);
    if (batch === undefined) return;
    const onBatch = this.#onBatch;
    this.#onBatch = undefined;
    onBatch?.(batch.slots.flatMap(({ results }) => results.map(({ result }) => result)));
  }

  #request(environment: number): void {
    const episode = this.#queues.request(environment);
    if (episode !== undefined) this.#begin(environment, episode);
  }

  #begin(environment: number, slot: number): void {
    const { seed, groups, shapes } = this.#setup.workload;
    const group = `${seed}/train/${slot + 1}/${Math.floor(environment / this.#perGroup) % groups}`;
    const member = this.#members.get(group) ?? 0;
    this.#members.set(group, member + 1);
    const shape = new Rng(`${group}/${member}/shape`).pick(shapes);
    const ends = Number.POSITIVE_INFINITY;
    const fresh = { device: undefined, answer: undefined, tokens: 0, cached: -1, oldest: Number.POSITIVE_INFINITY };
    const episode: Episode = { environment, group, member, shape, ...fresh, ends, state: "waiting" };
    this.#episodes.set(environment, episode);
    this.#waiting.push(episode);
    this.#admit();
  }

  #admit(): void {
    const { workload, costs } = this.#setup;
    while (this.#playing < workload.concurrency) {
      const episode = this.#waiting.shift();
      if (episode === undefined) return;
      this.#playing++;
      episode.state = "playing";
      this.#clock.after(costs.reset, () => {
        episode.ends = this.#clock.now + (workload.episodeMs ?? Number.POSITIVE_INFINITY);
        this.#play(episode, 0);
      });
    }
  }

  #play(episode: Episode, index: number): void {
    if (episode.state === "over") return;
    const { costs } = this.#setup;
    const turn = episode.shape[index];
    const isLate = this.#clock.now >= episode.ends;
    if (turn === undefined || isLate) {
      this.#closeSequence(episode);
      this.#clock.after(isLate ? 0 : costs.grade, () => this.#finish(episode));
      return;
    }
    this.#answer(episode, turn, () => {
      const wait = turn.command ? costs.tool + this.#latency(episode, index) : 0;
      this.#clock.after(Math.min(wait, episode.ends - this.#clock.now), () => this.#play(episode, index + 1));
    });
  }

  #latency({ group, member }: Episode, turn: number): number {
    const { law, groupSize } = this.#setup.workload;
    return law === undefined ? 0 : latencyOf(law, { group, member: member % groupSize, members: groupSize }, turn);
  }

  #answer(episode: Episode, turn: TurnShape, done: () => void): void {
    if (episode.device === undefined) {
      episode.device = this.#pool.place();
      episode.device.open++;
    }
    const isStale = episode.cached !== this.version && this.#setup.schedule.recompute;
    const context = turn.context + (isStale ? episode.tokens : 0);
    if (isStale || episode.cached < 0) episode.cached = this.version;
    episode.oldest = Math.min(episode.oldest, this.version, episode.cached);
    episode.tokens += turn.context + turn.answer;
    episode.answer = { context, left: turn.answer, done };
    episode.device.generate(episode.answer);
  }

  #closeSequence(episode: Episode): void {
    if (episode.device === undefined) return;
    episode.device.open--;
    if (episode.answer !== undefined) episode.device.cancel(episode.answer);
    episode.device = undefined;
  }

  /** The episode's place is free. */
  #end(episode: Episode): void {
    episode.state = "over";
    this.#episodes.delete(episode.environment);
    this.#playing--;
    this.#admit();
  }

  #finish(episode: Episode): void {
    if (episode.state === "over") return;
    this.#end(episode);
    const { group, oldest, shape, environment } = episode;
    this.#apply(this.#queues.put(environment, { group, tokens: tokensOf(shape), oldest }));
    this.#request(environment);
  }

  /** Nobody needs its episode any more. */
  #cancel(environment: number): void {
    const episode = this.#episodes.get(environment);
    if (episode === undefined) return;
    if (episode.state === "waiting") {
      this.#waiting.splice(this.#waiting.indexOf(episode), 1);
      this.#episodes.delete(environment);
    } else {
      this.#closeSequence(episode);
      this.#end(episode);
    }
    this.#apply(this.#queues.release(environment));
    this.#request(environment);
  }
}
