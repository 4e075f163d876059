/** Queries about episodes, their turns and tokens. */

import { and, asc, count, countDistinct, desc, eq, gt, gte, inArray, lt, type SQL, sql } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import { AleError } from "../core/errors.ts";
import type { Turn } from "../core/types.ts";
import { selectAlertsOf } from "./read-alerts.ts";
import type { EpisodeDetail, EpisodeFilter, EpisodePage, EpisodeRecord, FamilyRecord } from "./records.ts";
import { episodes, groups, tasks, tokens, turns } from "./schema.ts";
import { unpackTokens } from "./tokens.ts";

const COLUMNS = {
  rowId: episodes.id,
  id: episodes.key,
  runId: episodes.runId,
  groupId: groups.key,
  taskId: tasks.key,
  family: tasks.family,
  split: tasks.split,
  seed: tasks.seed,
  step: episodes.step,
  purpose: episodes.purpose,
  member: episodes.member,
  forkAnchor: episodes.forkAnchor,
  forkChunks: episodes.forkChunks,
  forkExpert: episodes.forkExpert,
  reward: episodes.reward,
  stopReason: episodes.stopReason,
  error: episodes.error,
  isolation: episodes.isolation,
  grading: episodes.grading,
  turns: episodes.turns,
  tokens: episodes.tokens,
  sampledTokens: episodes.sampledTokens,
  alerts: sql<number>`(SELECT count(*) FROM alerts WHERE alerts.episode_id = ${episodes.id})`.mapWith(Number),
  startedAt: episodes.startedAt,
  phases: {
    reset: episodes.resetMs,
    generate: episodes.generateMs,
    tool: episodes.toolMs,
    grade: episodes.gradeMs,
  },
};

function conditions(filter: EpisodeFilter): (SQL | undefined)[] {
  return [
    filter.runId === undefined ? undefined : eq(episodes.runId, filter.runId),
    filter.step === undefined ? undefined : eq(episodes.step, filter.step),
    filter.purpose === undefined ? undefined : eq(episodes.purpose, filter.purpose),
    filter.stopReason === undefined ? undefined : eq(episodes.stopReason, filter.stopReason),
    filter.solved === undefined ? undefined : filter.solved ? gte(episodes.reward, 1) : lt(episodes.reward, 1),
    filter.family === undefined ? undefined : eq(tasks.family, filter.family),
    filter.split === undefined ? undefined : eq(tasks.split, filter.split),
  ];
}

type Row = EpisodeRecord & { readonly rowId: number };

function selectRows(database: LibSQLDatabase, where: SQL | undefined, order: SQL, limit: number): Promise<Row[]> {
  return database
    .select(COLUMNS)
    .from(episodes)
    .innerJoin(tasks, eq(tasks.id, episodes.taskId))
    .innerJoin(groups, eq(groups.id, episodes.groupId))
    .where(where)
    .orderBy(order)
    .limit(limit);
}

/** A page of episodes in the order they were written, or in the opposite one. */
export async function selectEpisodes(
  database: LibSQLDatabase,
  filter: EpisodeFilter,
  page: { readonly limit: number; readonly cursor?: string; readonly newestFirst: boolean },
): Promise<EpisodePage> {
  const after = page.cursor === undefined ? undefined : parseCursor(page.cursor);
  const beyond = after === undefined ? undefined : page.newestFirst ? lt(episodes.id, after) : gt(episodes.id, after);
  const order = page.newestFirst ? desc(episodes.id) : asc(episodes.id);
  const rows = await selectRows(database, and(...conditions(filter), beyond), order, page.limit + 1);
  const shown = rows.slice(0, page.limit);
  const last = shown.at(-1);
  return {
    episodes: shown.map(({ rowId: _, ...episode }) => episode),
    nextCursor: rows.length > page.limit && last !== undefined ? String(last.rowId) : null,
  };
}

function parseCursor(cursor: string): number {
  const id = Number(cursor);
  if (Number.isSafeInteger(id) && id >= 0) return id;
  throw new AleError("usage", `${JSON.stringify(cursor)} is not a cursor`, {
    hint: "use nextCursor of the page before",
  });
}

/** One episode with its turns and tokens; undefined when there is none of that id. */
export async function selectEpisode(database: LibSQLDatabase, id: string): Promise<EpisodeDetail | undefined> {
  const rows = await selectRows(database, eq(episodes.key, id), asc(episodes.id), 1);
  return (await withDetail(database, rows))[0];
}

/** Episodes with turns and tokens after row `after`, in the order they were written. */
export async function selectDetails(
  database: LibSQLDatabase,
  filter: EpisodeFilter,
  after: number,
  limit: number,
): Promise<{ readonly details: EpisodeDetail[]; readonly last: number | undefined }> {
  const where = and(...conditions(filter), gt(episodes.id, after));
  const rows = await selectRows(database, where, asc(episodes.id), limit);
  return { details: await withDetail(database, rows), last: rows.at(-1)?.rowId };
}

async function withDetail(database: LibSQLDatabase, rows: readonly Row[]): Promise<EpisodeDetail[]> {
  if (rows.length === 0) return [];
  const ids = rows.map((row) => row.rowId);
  const turnRows = await database
    .select()
    .from(turns)
    .where(inArray(turns.episodeId, ids))
    .orderBy(asc(turns.episodeId), asc(turns.turn));
  const turnsOf = new Map<number, Turn[]>(ids.map((id) => [id, []]));
  for (const { episodeId, turn, ...rest } of turnRows) turnsOf.get(episodeId)?.push({ index: turn, ...rest });
  const blocks = await database.select().from(tokens).where(inArray(tokens.episodeId, ids));
  const tokensOf = new Map(blocks.map(({ episodeId, ...block }) => [episodeId, block]));
  const alertsOf = await selectAlertsOf(database, ids);
  const instructions = await selectInstructions(
    database,
    rows.map((row) => row.taskId),
  );
  return rows.map(({ rowId, turns: _turns, tokens: _tokens, alerts: _alerts, ...episode }) => {
    const block = tokensOf.get(rowId);
    if (block === undefined) throw new AleError("store", `episode ${episode.id} has no tokens`);
    return {
      ...episode,
      instruction: instructions.get(episode.taskId) ?? null,
      turns: turnsOf.get(rowId) ?? [],
      alerts: alertsOf.get(rowId) ?? [],
      tokens: unpackTokens(block),
    };
  });
}

async function selectInstructions(
  database: LibSQLDatabase,
  keys: readonly string[],
): Promise<Map<string, string | null>> {
  const rows = await database
    .select({ key: tasks.key, instruction: tasks.instruction })
    .from(tasks)
    .where(inArray(tasks.key, [...new Set(keys)]));
  return new Map(rows.map((row) => [row.key, row.instruction]));
}

/** Counts per family and split, over all runs or one. */
export async function selectFamilies(database: LibSQLDatabase, runId?: string): Promise<FamilyRecord[]> {
  return database
    .select({
      suite: tasks.suite,
      family: tasks.family,
      split: tasks.split,
      tasks: countDistinct(episodes.taskId),
      episodes: count(),
      solved: sql<number>`sum(${episodes.reward} >= 1)`.mapWith(Number),
    })
    .from(episodes)
    .innerJoin(tasks, eq(tasks.id, episodes.taskId))
    .where(runId === undefined ? undefined : eq(episodes.runId, runId))
    .groupBy(tasks.suite, tasks.family, tasks.split)
    .orderBy(asc(tasks.suite), asc(tasks.family), asc(tasks.split));
}
