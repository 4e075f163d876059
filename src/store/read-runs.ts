/** Queries about runs, steps, metrics and evaluations. */

import { and, asc, desc, eq, gt, gte, inArray, isNull, lt, lte, type SQL, sql } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import { AleError } from "../core/errors.ts";
import { isAlive } from "./owner.ts";
import type {
  CheckpointRecord,
  CommittedStep,
  EvaluationRecord,
  EventRecord,
  MetricsRow,
  RunRecord,
  StepRecord,
} from "./records.ts";
import { checkpoints, configurations, evaluations, events, metrics, runs, steps } from "./schema.ts";

function toRun(row: typeof runs.$inferSelect): RunRecord {
  const { owner, ...run } = row;
  if (run.status !== "running" || isAlive(owner)) return run;
  return { ...run, status: "interrupted", reason: run.reason ?? "its process is gone" };
}

/** No run has the id that was asked for. */
export class UnknownRun extends AleError {
  constructor(id: string) {
    super("store", `there is no run ${id}`, { hint: "list them with: ale runs ls" });
  }
}

/** All runs, newest first. */
export async function selectRuns(database: LibSQLDatabase, limit: number): Promise<RunRecord[]> {
  const rows = await database.select().from(runs).orderBy(desc(runs.createdAt), desc(runs.id)).limit(limit);
  return rows.map(toRun);
}

/** The run that `prefix` names. Throws `AleError("store")` when there is none or more than one. */
export async function selectRun(database: LibSQLDatabase, prefix: string): Promise<RunRecord> {
  const rows = await database.select().from(runs).where(startsWith(runs.id, prefix)).orderBy(asc(runs.id)).limit(6);
  const exact = rows.find((row) => row.id === prefix);
  if (exact !== undefined) return toRun(exact);
  const [first, second] = rows;
  if (first === undefined) throw new UnknownRun(prefix);
  if (second !== undefined) {
    const names = rows.slice(0, 5).map((row) => row.id);
    throw new AleError("store", `${prefix} may mean ${names.join(", ")}${rows.length > 5 ? ", …" : ""}`, {
      hint: "give more of the id",
    });
  }
  return toRun(first);
}

/** Process that works on the run; undefined when none does. */
export async function selectOwner(database: LibSQLDatabase, runId: string): Promise<number | undefined> {
  const [row] = await database.select({ owner: runs.owner }).from(runs).where(eq(runs.id, runId));
  return row !== undefined && isAlive(row.owner) ? Number(row.owner?.split(":")[0]) : undefined;
}

/** The newest run whose results are in `outDir`. */
export async function selectRunByFolder(database: LibSQLDatabase, outDir: string): Promise<RunRecord | undefined> {
  const rows = await database.select().from(runs).where(eq(runs.outDir, outDir)).orderBy(desc(runs.createdAt)).limit(1);
  return rows[0] === undefined ? undefined : toRun(rows[0]);
}

export async function selectConfiguration(database: LibSQLDatabase, hash: string): Promise<string | undefined> {
  const rows = await database.select().from(configurations).where(eq(configurations.hash, hash));
  return rows[0]?.toml;
}

/** A range instead of LIKE, whose wildcards an id could hold and which no index helps. */
function startsWith(column: typeof runs.id, prefix: string): SQL | undefined {
  return and(gte(column, prefix), lt(column, `${prefix}\u{10ffff}`));
}

export async function selectSteps(database: LibSQLDatabase, runId: string): Promise<StepRecord[]> {
  return database
    .select({
      step: steps.step,
      committedAt: steps.committedAt,
      wallSeconds: steps.wallSeconds,
      state: steps.state,
    })
    .from(steps)
    .where(eq(steps.runId, runId))
    .orderBy(asc(steps.step));
}

export async function selectLastCommitted(database: LibSQLDatabase, runId: string): Promise<CommittedStep | undefined> {
  const [step] = await database.select().from(steps).where(eq(steps.runId, runId)).orderBy(desc(steps.step)).limit(1);
  if (step === undefined) return undefined;
  const kept = await selectCheckpoints(database, runId);
  return {
    step: step.step,
    committedAt: step.committedAt,
    wallSeconds: step.wallSeconds,
    state: step.state,
    checkpoint: kept.at(-1) ?? null,
  };
}

/** Checkpoints that were not pruned, oldest first. */
export async function selectCheckpoints(database: LibSQLDatabase, runId: string): Promise<CheckpointRecord[]> {
  return database
    .select({
      step: checkpoints.step,
      path: checkpoints.path,
      weightVersion: checkpoints.weightVersion,
      createdAt: checkpoints.createdAt,
    })
    .from(checkpoints)
    .where(and(eq(checkpoints.runId, runId), isNull(checkpoints.prunedAt)))
    .orderBy(asc(checkpoints.step));
}

export interface MetricsFilter {
  /** Only steps after this one. */
  readonly sinceStep?: number;
  readonly untilStep?: number;
  readonly names?: readonly string[];
}

/** Values per query: the driver works on the event loop, some milliseconds for so many. */
const METRICS_PER_PAGE = 1000;

/** Metrics of whole steps, in order, some at a time; between pages the event loop turns. */
export async function* selectMetrics(
  database: LibSQLDatabase,
  runId: string,
  { sinceStep, untilStep, names }: MetricsFilter,
): AsyncGenerator<MetricsRow[]> {
  const wanted = and(
    eq(metrics.runId, runId),
    sinceStep === undefined ? undefined : gt(metrics.step, sinceStep),
    untilStep === undefined ? undefined : lte(metrics.step, untilStep),
    names === undefined ? undefined : inArray(metrics.name, [...names]),
  );
  let unfinished: { step: number; metrics: Record<string, number | null> } | undefined;
  for (let after: SQL | undefined, full = true; full; ) {
    const values = await database
      .select({ step: metrics.step, name: metrics.name, value: metrics.value })
      .from(metrics)
      .where(and(wanted, after))
      .orderBy(asc(metrics.step), asc(metrics.name))
      .limit(METRICS_PER_PAGE);
    const page: MetricsRow[] = [];
    for (const { step, name, value } of values) {
      if (unfinished?.step !== step) {
        if (unfinished !== undefined) page.push(unfinished);
        unfinished = { step, metrics: {} };
      }
      unfinished.metrics[name] = value;
    }
    const last = values.at(-1);
    full = last !== undefined && values.length === METRICS_PER_PAGE;
    if (!full && unfinished !== undefined) page.push(unfinished);
    if (page.length > 0) yield page;
    if (!full) return;
    after = sql`(${metrics.step}, ${metrics.name}) > (${last?.step}, ${last?.name})`;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

export async function selectEvaluations(database: LibSQLDatabase, runId: string): Promise<EvaluationRecord[]> {
  const rows = await database
    .select()
    .from(evaluations)
    .where(eq(evaluations.runId, runId))
    .orderBy(asc(evaluations.step), asc(evaluations.split), asc(evaluations.greedy));
  return rows.map(({ runId: _, ...row }) => row);
}

/** Events after `sinceId`, oldest first; of one run or of all. */
export async function selectEvents(
  database: LibSQLDatabase,
  filter: { readonly runId?: string; readonly sinceId: number; readonly limit: number },
): Promise<EventRecord[]> {
  return database
    .select({ id: events.id, runId: events.runId, at: events.at, type: events.type, body: events.body })
    .from(events)
    .where(and(gt(events.id, filter.sinceId), filter.runId === undefined ? undefined : eq(events.runId, filter.runId)))
    .orderBy(asc(events.id))
    .limit(filter.limit);
}

export async function selectLastEventId(database: LibSQLDatabase): Promise<number> {
  const rows = await database.select({ id: events.id }).from(events).orderBy(desc(events.id)).limit(1);
  return rows[0]?.id ?? 0;
}
