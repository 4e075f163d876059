/** Episodes with their groups, tasks, turns and tokens, in rows of many at a time. */

import { and, eq, inArray, max, sql } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import { AleError } from "../core/errors.ts";
import type { WriteTransaction } from "./connection.ts";
import { toStoredText } from "./foreign-text.ts";
import { chunks, insertRows, ROWS } from "./insert-rows.ts";
import type { NewEpisode, StoredTask, WriteOperation } from "./operations.ts";
import * as schema from "./schema.ts";
import { type PackedTokens, packTokens, plainBytes } from "./tokens.ts";

/** Keys per SELECT. */
const KEYS = 500;

/** Makes sure that every task has a row; what is known already stays. */
export async function writeTasks(tx: LibSQLDatabase, tasks: readonly StoredTask[]): Promise<void> {
  for (const some of chunks(tasks, ROWS)) {
    await tx
      .insert(schema.tasks)
      .values(
        some.map((task) => ({
          key: task.id,
          suite: task.suite,
          family: task.family,
          split: task.split,
          seed: task.seed,
          instruction: task.instruction ?? null,
        })),
      )
      .onConflictDoUpdate({
        target: schema.tasks.key,
        set: { instruction: sql`coalesce(${schema.tasks.instruction}, excluded.instruction)` },
      });
  }
}

/** @throws AleError("store") when an episode of that id is stored already. */
export async function writeEpisodes(
  transaction: WriteTransaction,
  operation: Extract<WriteOperation, { type: "writeEpisodes" }>,
): Promise<void> {
  const { runId, step, purpose, episodes: trajectories } = operation;
  if (trajectories.length === 0) return;
  const { database: tx, raw } = transaction;
  await refuseDoubles(tx, trajectories);
  const taskIds = await ensureTasks(tx, trajectories);
  const groupIds = await ensureGroups(transaction, runId, step, trajectories, taskIds);
  const [last] = await tx.select({ id: max(schema.episodes.id) }).from(schema.episodes);
  const first = (last?.id ?? 0) + 1;
  const rows = trajectories.map((trajectory, i) => ({
    ...episodeColumns(trajectory),
    id: first + i,
    runId,
    step,
    purpose,
    groupId: required(groupIds, trajectory.groupId),
    taskId: required(taskIds, trajectory.taskId),
  }));
  await insertRows(raw, schema.episodes, rows);
  const turns = trajectories.flatMap((trajectory, i) => turnRows(trajectory, first + i));
  await insertRows(raw, schema.turns, turns);
  const tokens = [...packAll(trajectories, operation.tokens)].map((block, i) => ({ episodeId: first + i, ...block }));
  await insertRows(raw, schema.tokens, tokens);
  await tx.update(schema.runs).set({ updatedAt: Date.now() }).where(eq(schema.runs.id, runId));
}

/** Compresses the token blocks of episodes that lie one behind the other. */
export function* packAll(trajectories: readonly NewEpisode[], blocks: Uint8Array): Generator<PackedTokens> {
  let start = 0;
  for (const { tokenCount } of trajectories) {
    const end = start + plainBytes(tokenCount);
    yield packTokens(blocks.subarray(start, end), tokenCount);
    start = end;
  }
}

function episodeColumns(trajectory: NewEpisode) {
  const { phases } = trajectory;
  return {
    key: trajectory.episodeId,
    member: trajectory.member,
    forkAnchor: trajectory.fork?.anchor ?? null,
    forkChunks: trajectory.fork?.chunks ?? null,
    forkExpert: trajectory.fork?.expert ?? null,
    reward: Number.isFinite(trajectory.reward) ? trajectory.reward : 0,
    stopReason: trajectory.stopReason,
    error: trajectory.error === undefined ? null : toStoredText(trajectory.error),
    isolation: trajectory.isolation,
    grading: trajectory.grading,
    turns: trajectory.turns.length,
    tokens: trajectory.tokenCount,
    sampledTokens: trajectory.sampledTokens,
    startedAt: trajectory.startedAt,
    resetMs: phases.reset,
    generateMs: phases.generate,
    toolMs: phases.tool,
    gradeMs: phases.grade,
  };
}

function turnRows(trajectory: NewEpisode, episodeId: number) {
  return trajectory.turns.map((turn) => ({
    episodeId,
    turn: turn.index,
    command: toStoredText(turn.command),
    observation: toStoredText(turn.observation),
    exitCode: turn.exitCode,
    startedMs: turn.startedMs,
    generatedMs: turn.generatedMs,
    observedMs: turn.observedMs,
  }));
}

async function refuseDoubles(tx: LibSQLDatabase, trajectories: readonly NewEpisode[]): Promise<void> {
  const keys = trajectories.map((trajectory) => trajectory.episodeId);
  const stored: string[] = [];
  for (const some of chunks(keys, KEYS)) {
    const rows = await tx
      .select({ key: schema.episodes.key })
      .from(schema.episodes)
      .where(inArray(schema.episodes.key, some));
    stored.push(...rows.map((row) => row.key));
  }
  const seen = new Set<string>();
  const double = stored[0] ?? keys.find((key) => seen.size === seen.add(key).size);
  if (double !== undefined) throw new AleError("store", `episode ${double} is stored already`);
}

async function ensureTasks(tx: LibSQLDatabase, trajectories: readonly NewEpisode[]): Promise<Map<string, number>> {
  const wanted = new Map(trajectories.map((trajectory) => [trajectory.taskId, trajectory]));
  const ids = await selectTasks(tx, [...wanted.keys()]);
  const missing = [...wanted.values()].filter((trajectory) => !ids.has(trajectory.taskId));
  if (missing.length === 0) return ids;
  await writeTasks(
    tx,
    missing.map(({ taskId, family, split, seed }) => ({
      id: taskId,
      suite: taskId.split("/")[0] ?? "",
      family,
      split,
      seed,
    })),
  );
  const added = await selectTasks(
    tx,
    missing.map((trajectory) => trajectory.taskId),
  );
  return new Map([...ids, ...added]);
}

async function selectTasks(tx: LibSQLDatabase, keys: readonly string[]): Promise<Map<string, number>> {
  const ids = new Map<string, number>();
  for (const some of chunks(keys, KEYS)) {
    const rows = await tx
      .select({ id: schema.tasks.id, key: schema.tasks.key })
      .from(schema.tasks)
      .where(inArray(schema.tasks.key, some));
    for (const { id, key } of rows) ids.set(key, id);
  }
  return ids;
}

async function ensureGroups(
  { database: tx, raw }: WriteTransaction,
  runId: string,
  step: number,
  trajectories: readonly NewEpisode[],
  taskIds: ReadonlyMap<string, number>,
): Promise<Map<string, number>> {
  const wanted = new Map(trajectories.map((trajectory) => [trajectory.groupId, trajectory]));
  const ids = new Map<string, number>();
  for (const some of chunks([...wanted.keys()], KEYS)) {
    const rows = await tx
      .select({ id: schema.groups.id, key: schema.groups.key })
      .from(schema.groups)
      .where(and(eq(schema.groups.runId, runId), inArray(schema.groups.key, some)));
    for (const { id, key } of rows) ids.set(key, id);
  }
  const [last] = await tx.select({ id: max(schema.groups.id) }).from(schema.groups);
  let next = (last?.id ?? 0) + 1;
  const rows = [];
  for (const [key, trajectory] of wanted) {
    if (ids.has(key)) continue;
    rows.push({ id: next, key, runId, step, taskId: required(taskIds, trajectory.taskId) });
    ids.set(key, next++);
  }
  await insertRows(raw, schema.groups, rows);
  return ids;
}

function required(ids: ReadonlyMap<string, number>, key: string): number {
  const id = ids.get(key);
  if (id === undefined) throw new AleError("internal", `no row for ${key}`);
  return id;
}
