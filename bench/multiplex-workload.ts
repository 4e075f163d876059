/**
 * Episodes that follow one another and updates made of them, against anything that answers and trains: real engines, or
 * simulated ones. An episode starts when the staleness gate lets it: never more than (ratio + 1) batches are under way or
 * waiting to be trained on; with ratio 0 nothing is generated during an update.
 */

import { Rng } from "../src/core/rng.ts";

export interface Workload {
  readonly batches: number;
  /** Episodes per update. */
  readonly batch: number;
  readonly ratio: number;
  readonly turns: number;
  /** Tokens of the first context, of each observation, of each answer. */
  readonly prompt: number;
  readonly observation: number;
  readonly answer: number;
  /** Median time of a command in ms; log-normal with σ 1, and 2 % take 20 times as long. */
  readonly latencyMs: number;
  readonly seed: string;
}

/** What answers and trains; its time is in ms. */
export interface World {
  now(): number;
  after(ms: number, then: () => void): void;
  open(episode: string): WorldSession;
  update(version: number, then: () => void): void;
}

export interface WorldSession {
  /** Appends tokens to the sequence and samples an answer. */
  answer(turn: number, then: () => void): void;
  close(): void;
}

export interface Outcome {
  readonly episodesPerSecond: number;
  /** Weight version at training less that when the episode started, and less that when its answers ended; means. */
  readonly staleness: number;
  readonly tokenAge: number;
  /** Mean time of an update. */
  readonly updateMs: number;
  readonly wallMs: number;
}

/** Tokens that a turn appends. */
export function contextLength({ prompt, observation }: Workload, turn: number): number {
  return turn === 0 ? prompt : observation;
}

function latency(rng: Rng, medianMs: number): number {
  const normal = Math.sqrt(-2 * Math.log(1 - rng.next())) * Math.cos(2 * Math.PI * rng.next());
  return medianMs * Math.exp(normal) * (rng.next() < 0.02 ? 20 : 1);
}

/** Runs the workload; `onEnd` gets what came of it. */
export function drive(world: World, load: Workload, onEnd: (outcome: Outcome) => void): void {
  const began = world.now();
  const total = load.batches * load.batch;
  let [started, trained, version, updateMs] = [0, 0, 0, 0];
  let updating = false;
  let [staleness, tokenAge] = [0, 0];
  /** Versions at which the finished episodes started, and of their answers the mean. */
  const finished: { readonly since: number; readonly sampled: number }[] = [];

  const admit = () => {
    while (started < total && started - trained < (load.ratio + 1) * load.batch && !(load.ratio === 0 && updating)) {
      play(started++);
    }
  };
  const play = (episode: number) => {
    const rng = new Rng(`${load.seed}/${episode}`);
    const session = world.open(`${load.seed}/${episode}`);
    const since = version;
    let sampled = 0;
    const turn = (index: number) =>
      session.answer(index, () => {
        sampled += version / load.turns;
        world.after(latency(rng, load.latencyMs), () => {
          if (index + 1 < load.turns) return turn(index + 1);
          session.close();
          finished.push({ since, sampled });
          train();
        });
      });
    turn(0);
  };
  const train = () => {
    if (updating || finished.length < load.batch) return;
    for (const { since, sampled } of finished.splice(0, load.batch)) {
      staleness += version - since;
      tokenAge += version - sampled;
    }
    updating = true;
    const begun = world.now();
    world.update(version + 1, () => {
      version++;
      updating = false;
      trained += load.batch;
      updateMs += world.now() - begun;
      if (trained === total) {
        const wallMs = world.now() - began;
        onEnd({
          episodesPerSecond: (1000 * total) / wallMs,
          staleness: staleness / total,
          tokenAge: tokenAge / total,
          updateMs: updateMs / load.batches,
          wallMs,
        });
        return;
      }
      admit();
      train();
    });
  };
  admit();
}
