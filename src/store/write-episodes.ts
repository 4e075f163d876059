/** Episodes with their groups, tasks, turns and tokens, in rows of many at a time. */

import type { InValue, Transaction } from "@libsql/client/sqlite3";
import { sql } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import { AleError } from "../core/errors.ts";
import { auditRows } from "./audit.ts";
import type { WriteTransaction } from "./connection.ts";
import { toStoredText } from "./foreign-text.ts";
import { chunks, insertRows, ROWS } from "./insert-rows.ts";
import type { NewEpisode, StoredTask, WriteOperation } from "./operations.ts";
import { UnknownRun } from "./read-runs.ts";
import * as schema from "./schema.ts";
import { type PackedTokens, packTokens, plainBytes } from "./tokens.ts";

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

/**
 * Called with every message of a run's episodes, so its own queries are plain SQL: building them with drizzle took as long as
 * writing a message of few episodes.
 * @throws AleError("store") when there is no such run, or an episode of that id is stored already.
 */
export async function writeEpisodes(
  transaction: WriteTransaction,
  operation: Extract<WriteOperation, { type: "writeEpisodes" }>,
): Promise<void> {
  const { runId, step, purpose, episodes: trajectories } = operation;
  if (trajectories.length === 0) return;
  const { raw } = transaction;
  const run = await raw.execute({ sql: "UPDATE runs SET updated_at = ? WHERE id = ?", args: [Date.now(), runId] });
  if (run.rowsAffected === 0) throw new UnknownRun(runId);
  await refuseDoubles(raw, trajectories);
  const taskIds = await ensureTasks(transaction, trajectories);
  const groupIds = await ensureGroups(raw, runId, step, trajectories, taskIds);
  const first = (await lastId(raw, "episodes")) + 1;
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
  const audit = trajectories.flatMap((trajectory, i) => auditRows(trajectory, first + i));
  await insertRows(raw, schema.sandboxAudit, audit);
  const alerts = trajectories.flatMap((trajectory, i) => alertRows(trajectory, runId, first + i));
  await insertRows(raw, schema.alerts, alerts);
  const tokens = [...packAll(trajectories, operation.tokens)].map((block, i) => ({ episodeId: first + i, ...block }));
  await insertRows(raw, schema.tokens, tokens);
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

function alertRows({ alerts = [] }: NewEpisode, runId: string, episodeId: number) {
  return alerts.map((alert) => ({ ...alert, id: null, runId, episodeId, sandbox: null }));
}

async function refuseDoubles(raw: Transaction, trajectories: readonly NewEpisode[]): Promise<void> {
  const keys = trajectories.map((trajectory) => trajectory.episodeId);
  const stored = await raw.execute({
    sql: "SELECT key FROM episodes WHERE key IN (SELECT value FROM json_each(?)) LIMIT 1",
    args: [JSON.stringify(keys)],
  });
  const seen = new Set<string>();
  const double = stored.rows[0]?.key ?? keys.find((key) => seen.size === seen.add(key).size);
  if (double !== undefined) throw new AleError("store", `episode ${String(double)} is stored already`);
}

async function ensureTasks(
  { database, raw }: WriteTransaction,
  trajectories: readonly NewEpisode[],
): Promise<Map<string, number>> {
  const wanted = new Map(trajectories.map((trajectory) => [trajectory.taskId, trajectory]));
  const ids = await selectTasks(raw, [...wanted.keys()]);
  const missing = [...wanted.values()].filter((trajectory) => !ids.has(trajectory.taskId));
  if (missing.length === 0) return ids;
  await writeTasks(
    database,
    missing.map(({ taskId, family, split, seed }) => ({
      id: taskId,
      suite: taskId.split("/")[0] ?? "",
      family,
      split,
      seed,
    })),
  );
  const added = missing.map((trajectory) => trajectory.taskId);
  return new Map([...ids, ...(await selectTasks(raw, added))]);
}

function selectTasks(raw: Transaction, keys: readonly string[]): Promise<Map<string, number>> {
  const sql = "SELECT id, key FROM tasks WHERE key IN (SELECT value FROM json_each(?))";
  return selectIds(raw, sql, [JSON.stringify(keys)]);
}

async function ensureGroups(
  raw: Transaction,
  runId: string,
  step: number,
  trajectories: readonly NewEpisode[],
  taskIds: ReadonlyMap<string, number>,
): Promise<Map<string, number>> {
  const wanted = new Map(trajectories.map((trajectory) => [trajectory.groupId, trajectory]));
  const sql = "SELECT id, key FROM groups WHERE run_id = ? AND key IN (SELECT value FROM json_each(?))";
  const ids = await selectIds(raw, sql, [runId, JSON.stringify([...wanted.keys()])]);
  let next = (await lastId(raw, "groups")) + 1;
  const rows = [];
  for (const [key, trajectory] of wanted) {
    if (ids.has(key)) continue;
    rows.push({ id: next, key, runId, step, taskId: required(taskIds, trajectory.taskId) });
    ids.set(key, next++);
  }
  await insertRows(raw, schema.groups, rows);
  return ids;
}

async function selectIds(raw: Transaction, sql: string, args: InValue[]): Promise<Map<string, number>> {
  const { rows } = await raw.execute({ sql, args });
  return new Map(rows.map(({ id, key }) => [String(key), Number(id)]));
}

async function lastId(raw: Transaction, table: "episodes" | "groups"): Promise<number> {
  const { rows } = await raw.execute(`SELECT max(id) AS last FROM ${table}`);
  return Number(rows[0]?.last ?? 0);
}

function required(ids: ReadonlyMap<string, number>, key: string): number {
  const id = ids.get(key);
  if (id === undefined) throw new AleError("internal", `no row for ${key}`);
  return id;
}
