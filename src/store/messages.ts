/** Trajectories on their way to the writer: cut into messages, their tokens laid out in memory that is handed over. */

import type { Trajectory } from "../core/types.ts";
import type { NewEpisode, Pending, PendingCommit } from "./operations.ts";
import { layOutTokens, plainBytes } from "./tokens.ts";
import type { Writer } from "./writer.ts";

/** Trajectories, and bytes of their tokens, per message to the writer: bound how long laying it out holds the event loop up. */
const EPISODES_PER_MESSAGE = 256;
const TOKEN_BYTES_PER_MESSAGE = 4 << 20;

export function* messagesOf(trajectories: readonly Trajectory[]): Generator<readonly Trajectory[]> {
  let first = 0;
  let bytes = 0;
  for (const [i, { tokens }] of trajectories.entries()) {
    const own = plainBytes(tokens.ids.length);
    if (i > first && (i - first >= EPISODES_PER_MESSAGE || bytes + own > TOKEN_BYTES_PER_MESSAGE)) {
      yield trajectories.slice(first, i);
      first = i;
      bytes = 0;
    }
    bytes += own;
  }
  if (first < trajectories.length) yield trajectories.slice(first);
}

export function toNewEpisode({ tokens, spans: _, ...rest }: Trajectory): NewEpisode {
  const { mask } = tokens;
  let sampledTokens = 0;
  for (let t = 0; t < mask.length; t++) sampledTokens += mask[t] as number; // an iterator takes twenty times as long
  return { ...rest, tokenCount: tokens.ids.length, sampledTokens };
}

export function toPendingCommit({ episodes, stored }: Pending, forget: boolean, writer: Writer): PendingCommit {
  const added = episodes.filter(({ episodeId }) => !stored.has(episodeId));
  return {
    keys: episodes.map(({ episodeId }) => episodeId),
    added: added.map(toNewEpisode),
    tokens: layOutAll(added, (size) => writer.buffer(size)),
    forget,
  };
}

export function layOutAll(
  trajectories: readonly Trajectory[],
  allocate: (bytes: number) => ArrayBuffer,
): Uint8Array<ArrayBuffer> {
  const total = trajectories.reduce((sum, { tokens }) => sum + plainBytes(tokens.ids.length), 0);
  const blocks = new Uint8Array(allocate(total), 0, total);
  let offset = 0;
  for (const { tokens } of trajectories) offset = layOutTokens(tokens, blocks, offset);
  return blocks;
}
