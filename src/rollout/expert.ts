/** An expert's trajectory, replayed in a sandbox with a snapshot before each of the wanted chunks. */

import { encodeDemonstration, type RecordedTurn } from "../agent/demonstration.ts";
import type { Sandbox, SandboxSnapshot } from "../core/ports.ts";
import type { Group, Task, TokenRecord, Trajectory } from "../core/types.ts";
import type { EpisodeContext } from "./episode.ts";

/** Whom to learn from: an episode of the group that solved the task, else the task's own solution. */
export interface Expert {
  /** Id of the episode, or `oracle`. */
  readonly source: string;
  /** One per chunk but the last, in which the policy says that it is done. */
  readonly commands: readonly string[];
  /** What the sampled episode saw and wrote; absent for the oracle, whose tokens follow from the replay. */
  readonly trajectory?: Trajectory;
}

/** An expert as it was replayed: its tokens, and the state before chunk k for the anchors k that were asked for. */
export interface ReplayedExpert {
  readonly source: string;
  readonly chunks: number;
  readonly tokens: TokenRecord;
  readonly snapshots: ReadonlyMap<number, SandboxSnapshot>;
}

/** The shortest success of the group, for it is what the policy of today can do; else the first oracle; else `undefined`. */
export function chooseExpert(task: Task, group: Group): Expert | undefined {
  const successes = group.trajectories.filter(({ reward, stopReason }) => reward >= 1 && stopReason === "done");
  const [best] = successes.toSorted((a, b) => a.turns.length - b.turns.length || a.member - b.member);
  if (best !== undefined) {
    return { source: best.episodeId, commands: best.turns.map(({ command }) => command), trajectory: best };
  }
  const oracle = task.demonstrations.find(({ kind }) => kind === "expert");
  return oracle === undefined ? undefined : { source: "oracle", commands: oracle.commands };
}

/**
 * Runs the expert's commands up to the last anchor and keeps a snapshot before each anchor. Returns `undefined`, and keeps
 * nothing, when a sampled expert's commands show something else this time: its tokens would not fit the state.
 */
export async function replayExpert(
  task: Task,
  expert: Expert,
  anchors: readonly number[],
  context: EpisodeContext,
): Promise<ReplayedExpert | undefined> {
  const { provider, signal } = context;
  const chunks = expert.commands.length + 1;
  const snapshots = new Map<number, SandboxSnapshot>();
  const turns: RecordedTurn[] = [];
  await using sandbox = await provider.create(task.environment, signal);
  try {
    await sandbox.upload(task.environment.workdir, task.files);
    for (let chunk = 1; chunk <= chunks; chunk++) {
      if (anchors.includes(chunk)) snapshots.set(chunk, await sandbox.snapshot());
      const command = expert.commands[chunk - 1];
      if (command === undefined) break;
      const turn = await replayTurn(task, command, sandbox, context);
      const told = expert.trajectory?.turns[chunk - 1]?.observation;
      if (told !== undefined && told !== turn.observation) {
        await releaseSnapshots(snapshots);
        return undefined;
      }
      turns.push(turn);
    }
    const tokens = expert.trajectory?.tokens ?? encodeDemonstration(task.instruction, turns, context.format);
    return { source: expert.source, chunks, tokens, snapshots };
  } catch (error) {
    await releaseSnapshots(snapshots);
    throw error;
  }
}

async function replayTurn(
  task: Task,
  command: string,
  sandbox: Sandbox,
  { limits, format, signal }: EpisodeContext,
): Promise<RecordedTurn> {
  const result = await sandbox.run(command, {
    timeoutMs: (limits.commandSeconds ?? task.timeouts.command) * 1000,
    maxOutputBytes: limits.maxObservationChars * 8,
    signal,
  });
  return { command, observation: format.renderResult(result, limits.maxObservationChars) };
}

export async function releaseSnapshots(snapshots: ReadonlyMap<number, SandboxSnapshot>): Promise<void> {
  for (const snapshot of snapshots.values()) await snapshot[Symbol.asyncDispose]();
}

/** Ids up to where the policy begins to write chunk `anchor`. */
export function tokensBefore({ ids, mask, turnIds }: TokenRecord, anchor: number): Int32Array {
  const first = ids.findIndex((_, t) => mask[t] === 1 && turnIds[t] === anchor - 1);
  return first < 0 ? ids : ids.slice(0, first);
}
