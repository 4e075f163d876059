/** Which task each group of a run works on, and how many episodes of a suite are in flight at once. */

import type { Task } from "../core/types.ts";
import { both, type Gate, Limiter } from "../rollout/limiter.ts";
import type { RolloutBatch, RolloutState, SlotName } from "../rollout/rollout.ts";
import { Curriculum, type CurriculumState } from "../tasks/curriculum.ts";
import { suiteName, type TaskSampler } from "../tasks/suite.ts";
import type { RunParts } from "./run-parts.ts";
import { suitePaths } from "./suites.ts";

export class TrainingTasks {
  readonly #groups: number;
  readonly #sampler: TaskSampler;
  readonly #curriculum: Curriculum | undefined;
  /** By name of the suite. */
  readonly #limiters: ReadonlyMap<string, Limiter>;

  private constructor({ options, suite, session }: RunParts) {
    const { seed, rollout, tasks } = options.experiment;
    this.#groups = rollout.groups;
    this.#sampler = suite.sampler(seed, "train");
    const state = session.resumedState.tasks as CurriculumState | undefined;
    this.#curriculum = tasks.curriculum && new Curriculum(tasks.curriculum, suite, rollout.groups, seed, state);
    const limits = tasks.mix?.map(({ concurrency }) => concurrency) ?? [];
    const names = suitePaths(options.experiment).map((path) => suiteName(path));
    this.#limiters = new Map(
      limits.flatMap((limit, i) => (limit === undefined ? [] : [[names[i] as string, new Limiter(limit)] as const])),
    );
  }

  static open(parts: RunParts): TrainingTasks {
    return new TrainingTasks(parts);
  }

  /** The task of a queue's n-th group: the same whenever it is asked for. */
  of({ group, episode }: SlotName): Task {
    return this.#curriculum?.task(episode, group) ?? this.#sampler.at(episode * this.#groups + group);
  }

  limiterOf({ suite }: Task, all: Limiter): Gate {
    const own = this.#limiters.get(suite);
    return own === undefined ? all : both(own, all);
  }

  note({ groups, tasks }: RolloutBatch): void {
    for (const [i, { trajectories }] of groups.entries()) {
      const rewards = trajectories.map(({ reward }) => reward);
      this.#curriculum?.note((tasks[i] as Task).family, rewards);
    }
  }

  metrics(): Record<string, number> {
    const chances = Object.entries(this.#curriculum?.chances() ?? {});
    return Object.fromEntries(chances.map(([family, chance]) => [`curriculum/${family}`, chance]));
  }

  /** With the commit of a step; `rollout` says which groups may still need their tasks. */
  state({ slots, ready }: RolloutState): CurriculumState | undefined {
    return this.#curriculum?.state(Math.min(...[...slots, ...ready].map(({ episode }) => episode)));
  }
}
