/** Queries about what the guards raised. */

import { and, desc, eq, inArray, isNotNull, lt } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import type { Alert, AlertKind } from "../core/alerts.ts";
import type { AlertPage } from "./records.ts";
import { alerts, episodes } from "./schema.ts";

export interface AlertFilter {
  readonly runId?: string;
  readonly kind?: AlertKind;
  /** Only those of sandboxes of the service. */
  readonly service?: boolean;
}

export interface AlertPageRequest {
  /** Default 100. */
  readonly limit?: number;
  readonly cursor?: string;
}

/** A page of alerts, the newest first. */
export async function selectAlerts(
  database: LibSQLDatabase,
  { runId, kind, service }: AlertFilter,
  { limit = 100, cursor }: AlertPageRequest,
): Promise<AlertPage> {
  const { id, runId: run, sandbox, turn, kind: kinds, action, at, evidence } = alerts;
  const rows = await database
    .select({
      id,
      runId: run,
      episodeId: episodes.key,
      step: episodes.step,
      sandbox,
      turn,
      kind: kinds,
      action,
      at,
      evidence,
    })
    .from(alerts)
    .leftJoin(episodes, eq(episodes.id, alerts.episodeId))
    .where(
      and(
        runId === undefined ? undefined : eq(alerts.runId, runId),
        kind === undefined ? undefined : eq(alerts.kind, kind),
        service ? isNotNull(alerts.sandbox) : undefined,
        cursor === undefined ? undefined : lt(alerts.id, Number(cursor)),
      ),
    )
    .orderBy(desc(alerts.id))
    .limit(limit + 1);
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { alerts: shown, nextCursor: rows.length > limit && last !== undefined ? String(last.id) : null };
}

/** Of episodes by their row; none where there is none. */
export async function selectAlertsOf(
  database: LibSQLDatabase,
  episodeRows: readonly number[],
): Promise<ReadonlyMap<number, Alert[]>> {
  const found = new Map<number, Alert[]>();
  const rows = await database
    .select()
    .from(alerts)
    .where(inArray(alerts.episodeId, [...episodeRows]))
    .orderBy(alerts.id);
  for (const { episodeId, kind, at, turn, evidence, action } of rows) {
    if (episodeId === null) continue;
    found.set(episodeId, [...(found.get(episodeId) ?? []), { kind, at, turn, evidence, action }]);
  }
  return found;
}
