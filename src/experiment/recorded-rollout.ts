/**
 * Replay: the batches that an earlier run was trained on, with the tokens, observations and rewards that it recorded, in
 * place of a rollout. With the same settings the same updates follow, which no new rollout of an asynchronous run would
 * give; with others, what they would have made of the same experience.
 */

import { AleError } from "../core/errors.ts";
import type { Group, Task, Trajectory } from "../core/types.ts";
import type { BatchSource, RolloutBatch } from "../rollout/rollout.ts";
import type { EpisodeDetail, RunRecord } from "../store/records.ts";
import type { RunParts } from "./run-parts.ts";

export class RecordedRollout implements BatchSource {
  readonly #parts: RunParts;
  readonly #source: RunRecord;

  private constructor(parts: RunParts, source: RunRecord) {
    this.#parts = parts;
    this.#source = source;
  }

  /**
   * @param name id of a run, the unique beginning of one, or its directory.
   * @throws AleError("store") when there is none, AleError("config") when it has fewer steps than are to be trained.
   */
  static async open(parts: RunParts, name: string): Promise<RecordedRollout> {
    const { store } = parts.session;
    const source = (await store.findRunByFolder(name)) ?? (await store.getRun(name));
    const { experiment } = parts.options;
    const recorded = source.committedStep ?? 0;
    if (experiment.resampling !== undefined) {
      throw new AleError("config", "a replay has no sandboxes in which tasks could be resampled", {
        hint: "leave [resampling] out of the experiment",
      });
    }
    if (recorded < experiment.trainer.steps) {
      throw new AleError(
        "config",
        `run ${source.id} has ${recorded} steps to replay, not ${experiment.trainer.steps}`,
        {
          hint: `--trainer.steps ${recorded}`,
        },
      );
    }
    return new RecordedRollout(parts, source);
  }

  async collect(step: number): Promise<RolloutBatch> {
    const { suite, session, options } = this.#parts;
    const groups = new Map<string, Trajectory[]>();
    const tasks = new Map<string, Task>();
    // Weight versions mean the same only where the same weights were trained in the same way.
    const isSame = this.#source.configHash === options.configHash;
    for await (const episode of session.store.episodes({ runId: this.#source.id, step, purpose: "train" })) {
      if (episode.forkAnchor !== null) continue;
      const groupId = `${session.runId}${episode.groupId.slice(this.#source.id.length)}`;
      const id = `${session.runId}${episode.id.slice(this.#source.id.length)}`;
      groups.set(groupId, [...(groups.get(groupId) ?? []), trajectoryOf(episode, id, groupId, isSame)]);
      tasks.set(groupId, suite.render(episode.family, episode.split, episode.seed));
    }
    return {
      groups: [...groups].map(([groupId, trajectories]): Group => {
        return { groupId, taskId: (tasks.get(groupId) as Task).id, trajectories };
      }),
      tasks: [...tasks.values()],
    };
  }

  state(): undefined {}

  async stop(): Promise<void> {}
}

function trajectoryOf(episode: EpisodeDetail, episodeId: string, groupId: string, isSame: boolean): Trajectory {
  const { tokens, error, grading, ...rest } = episode;
  const unknown = new Int32Array(tokens.ids.length).fill(-1);
  return {
    ...rest,
    ...{ episodeId, groupId },
    tokens: isSame ? tokens : { ...tokens, versions: unknown, kvOldest: unknown },
    ...(error === null ? {} : { error }),
    grading: grading as Trajectory["grading"],
  };
}
