/**
 * A discrete-event simulation of a run: environments play episodes (`environments.ts`, on the same group queues as a run),
 * devices generate and train one micro-operation at a time (`device.ts`), updates are shared out among them (`update.ts`).
 *
 * What it leaves out: that sandboxes, the control process and the engines of a machine compete for its cores; the costs
 * it is given were measured while they did. And prefixes that sequences share.
 */

import { Clock } from "./clock.ts";
import { Device } from "./device.ts";
import { Environments, type TrainingBatch } from "./environments.ts";
import { Pool } from "./placement.ts";
import type { Setup } from "./setup.ts";
import { runUpdate } from "./update.ts";

export interface Simulation {
  readonly episodesPerSecond: number;
  /** Share of the time in which a device does nothing, one entry per device. */
  readonly idle: readonly number[];
  /** Training version less the oldest version in a trajectory, mean over all that were trained on. */
  readonly stalenessMean: number;
  /** Of the time of all devices. */
  readonly generateShare: number;
  readonly trainShare: number;
}

/** Steps before what is reported begins: by then rollout is as far ahead as it gets. */
export const WARM_UP = 2;

/**
 * Plays `steps` steps after the warm-up. What was made ready before them is trained on in them, so few steps may look quicker
 * than many. Throws when the schedule comes to a standstill.
 */
export function simulate(setup: Setup, steps: number, warmUp = WARM_UP): Simulation {
  const run = new SimulatedRun(setup);
  const from = run.play(warmUp);
  const to = run.play(warmUp + steps);
  const ms = to.ms - from.ms;
  const busy = (activity: "generate" | "train") =>
    to.busy.map((now, i) => now[activity] - (from.busy[i] as (typeof to.busy)[number])[activity]);
  const [generate, train] = [busy("generate"), busy("train")];
  const shareOf = (times: readonly number[]) => times.reduce((sum, one) => sum + one, 0) / ms / times.length;
  return {
    episodesPerSecond: (1000 * (to.episodes - from.episodes)) / ms,
    idle: generate.map((time, i) => 1 - (time + (train[i] as number)) / ms),
    stalenessMean: (to.staleness - from.staleness) / (to.episodes - from.episodes),
    generateShare: shareOf(generate),
    trainShare: shareOf(train),
  };
}

class SimulatedRun {
  readonly #setup: Setup;
  readonly #clock = new Clock();
  readonly #devices: readonly Device[];
  readonly #environments: Environments;
  readonly #pool: Pool;
  #steps = 0;
  #episodes = 0;
  #staleness = 0;

  constructor(setup: Setup) {
    const { devices, trainShare } = setup.schedule;
    this.#setup = setup;
    this.#devices = Array.from({ length: devices }, () => new Device(this.#clock, setup.costs, trainShare));
    this.#pool = new Pool(this.#devices, setup.schedule.placement);
    this.#environments = new Environments(setup, this.#clock, this.#pool);
    this.#collect();
  }

  /** Until `steps` steps are done; returns what was counted by then. */
  play(steps: number) {
    if (!this.#clock.run(() => this.#steps >= steps))
      throw new Error(`nothing happens any more in step ${this.#steps}`);
    const busy = this.#devices.map(({ busyMs }) => ({ ...busyMs }));
    return { ms: this.#clock.now, episodes: this.#episodes, staleness: this.#staleness, busy };
  }

  #collect(): void {
    this.#environments.collect(this.#steps + 1, (batch) => this.#train(batch));
  }

  #train(batch: TrainingBatch): void {
    const { workload, costs } = this.#setup;
    const version = this.#steps;
    for (const { oldest } of batch) this.#staleness += version - Math.min(version, oldest);
    const tokens = workload.trainedShare * batch.reduce((sum, one) => sum + one.tokens, 0);
    const plan = { tokens, minibatches: workload.minibatches };
    runUpdate(this.#pool.beginUpdate(), this.#devices, plan, costs, () => {
      this.#pool.endUpdate();
      this.#environments.version = version + 1;
      this.#clock.after(costs.step, () => {
        this.#episodes += batch.length;
        this.#steps++;
        this.#collect();
      });
    });
  }
}
