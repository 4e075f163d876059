/** The audit log of episodes: see `sandboxAudit` in `schema.ts`. */

import { and, asc, eq, gt, isNotNull, type SQL } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import type { AuditEntry } from "../core/types.ts";
import { toStoredText } from "./foreign-text.ts";
import type { NewEpisode } from "./operations.ts";
import type { AuditFilter, AuditPage } from "./records.ts";
import { episodes, sandboxAudit as table } from "./schema.ts";

const orNull = (text: string | null) => (text === null ? null : toStoredText(text));

/** The rows of an episode. */
export function auditRows({ audit = [] }: NewEpisode, episodeId: number) {
  return audit.map((entry) => {
    const { kind, at, ms, phase, turn, sandbox } = entry;
    const shared = { id: null, episodeId, kind, at, ms, phase, turn, sandbox };
    if (entry.kind === "exec") {
      const connection = { host: null, address: null, port: null, verdict: null, reason: null };
      const { exitCode } = entry;
      return { ...shared, ...connection, bytesOut: null, bytesIn: null, command: orNull(entry.command), exitCode };
    }
    const { address, port, verdict, bytesOut, bytesIn } = entry;
    const texts = { host: toStoredText(entry.host), reason: toStoredText(entry.reason) };
    return { ...shared, command: null, exitCode: null, ...texts, address, port, verdict, bytesOut, bytesIn };
  });
}

function conditions(filter: AuditFilter): (SQL | undefined)[] {
  return [
    filter.runId === undefined ? undefined : eq(episodes.runId, filter.runId),
    filter.episode === undefined ? undefined : eq(episodes.key, filter.episode),
    filter.verdict === undefined ? undefined : eq(table.verdict, filter.verdict),
    filter.connections ? isNotNull(table.verdict) : undefined,
  ];
}

/** A page of the log, in the order it was written; an episode's entries in order of time. */
export async function selectAudit(
  database: LibSQLDatabase,
  filter: AuditFilter,
  { limit, cursor }: { readonly limit: number; readonly cursor?: string },
): Promise<AuditPage> {
  const rows = await database
    .select({ entry: table, episode: episodes.key, run: episodes.runId, step: episodes.step })
    .from(table)
    .innerJoin(episodes, eq(episodes.id, table.episodeId))
    .where(and(...conditions(filter), gt(table.id, Number(cursor ?? 0))))
    .orderBy(asc(table.id))
    .limit(limit + 1);
  const entries = rows.slice(0, limit).map(({ entry, episode, run, step }) => {
    const { id: _, episodeId: __, command, exitCode, ...rest } = entry;
    const { host, address, port, verdict, reason, bytesOut, bytesIn, ...shared } = rest;
    const own =
      entry.kind === "exec" ? { command, exitCode } : { host, address, port, verdict, reason, bytesOut, bytesIn };
    return { episode, run, step, ...shared, ...own } as AuditEntry & { episode: string; run: string; step: number };
  });
  const last = rows[limit - 1]?.entry.id;
  return { entries, nextCursor: rows.length > limit && last !== undefined ? String(last) : null };
}
