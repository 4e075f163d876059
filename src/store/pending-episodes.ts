/** Trajectories between rollout and training: see `pendingEpisodes` in `schema.ts`. */

import { and, asc, eq, gt, isNull, lte, notInArray, or } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import type { Trajectory } from "../core/types.ts";
import type { WriteTransaction } from "./connection.ts";
import { insertRows } from "./insert-rows.ts";
import type { PendingCommit } from "./operations.ts";
import * as schema from "./schema.ts";
import { unpackTokens } from "./tokens.ts";
import { packAll } from "./write-episodes.ts";

const table = schema.pendingEpisodes;

/** Of the episodes that waited at the last commit, those in `keys` still do, and `added` joins them. */
export async function writePending(
  { database: tx, raw }: WriteTransaction,
  runId: string,
  step: number,
  { keys, added, tokens, forget }: PendingCommit,
): Promise<void> {
  const isOver = and(eq(table.runId, runId), isNull(table.untilStep), notInArray(table.key, [...keys]));
  await tx.update(table).set({ untilStep: step }).where(isOver);
  const blocks = [...packAll(added, tokens)];
  const rows = added.map((episode, i) => ({
    ...{ runId, key: episode.episodeId, fromStep: step, untilStep: null, body: JSON.stringify(episode) },
    ...(blocks[i] as (typeof blocks)[number]),
  }));
  await insertRows(raw, table, rows);
  if (forget) await tx.delete(table).where(and(eq(table.runId, runId), lte(table.untilStep, step)));
}

/** Goes back to what waited at the commit of `step`. */
export async function truncatePending(tx: LibSQLDatabase, runId: string, step: number): Promise<void> {
  await tx.delete(table).where(and(eq(table.runId, runId), gt(table.fromStep, step)));
  await tx
    .update(table)
    .set({ untilStep: null })
    .where(and(eq(table.runId, runId), gt(table.untilStep, step)));
}

/** What waited at the commit of `step`, as far as it is still known. */
export async function selectPending(database: LibSQLDatabase, runId: string, step: number): Promise<Trajectory[]> {
  const rows = await database
    .select()
    .from(table)
    .where(
      and(eq(table.runId, runId), lte(table.fromStep, step), or(isNull(table.untilStep), gt(table.untilStep, step))),
    )
    .orderBy(asc(table.key));
  return rows.map(({ body, ...packed }) => {
    const { tokenCount: _, sampledTokens: __, ...trajectory } = JSON.parse(body);
    return { ...trajectory, tokens: unpackTokens(packed) };
  });
}
