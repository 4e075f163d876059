/** The write operations, each on an open transaction. Only the writer calls these. */

import { and, eq, gt, inArray, lte, max, sql } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import { AleError } from "../core/errors.ts";
import type { AleEvent, EventOf } from "../core/events.ts";
import type { WriteTransaction } from "./connection.ts";
import { makeRunId } from "./ids.ts";
import type {
  NewEvent,
  NewRun,
  OperationType,
  SandboxAlert,
  StepCommit,
  Truncation,
  WriteOperation,
  WriteResults,
} from "./operations.ts";
import { isAlive } from "./owner.ts";
import { truncatePending, writePending } from "./pending-episodes.ts";
import * as schema from "./schema.ts";
import { writeTimeline } from "./timelines.ts";
import { writeEpisodes, writeTasks } from "./write-episodes.ts";

export async function applyOperation(
  transaction: WriteTransaction,
  operation: WriteOperation,
): Promise<WriteResults[OperationType]> {
  const tx = transaction.database;
  switch (operation.type) {
    case "createRun":
      return createRun(tx, operation.run, operation.owner);
    case "claimRun":
      return claimRun(tx, operation.runId, operation.owner, operation.steps);
    case "endRun":
      return endRun(tx, operation);
    case "writeTasks":
      await writeTasks(tx, operation.tasks);
      return null;
    case "writeEpisodes":
      await writeEpisodes(transaction, operation);
      return null;
    case "commitStep":
      return commitStep(transaction, operation);
    case "truncateAfter":
      return truncateAfter(tx, operation.runId, operation.step);
    case "appendEvents":
      await insertEvents(tx, operation.events);
      return null;
    case "appendAlerts":
      await insertAlerts(tx, operation.alerts);
      return null;
  }
}

async function createRun(tx: LibSQLDatabase, run: NewRun, owner: string): Promise<string> {
  const now = Date.now();
  await tx
    .insert(schema.configurations)
    .values({ hash: run.configHash, toml: run.configToml, createdAt: now })
    .onConflictDoNothing();
  const { configToml: _, ...columns } = run;
  for (let attempt = 0; attempt < 64; attempt++) {
    const id = makeRunId(run.name, now, Math.random());
    const taken = await tx.select({ id: schema.runs.id }).from(schema.runs).where(eq(schema.runs.id, id));
    if (taken.length > 0) continue;
    await tx.insert(schema.runs).values({ ...columns, id, owner, status: "running", createdAt: now, updatedAt: now });
    await insertEvents(tx, [{ runId: id, at: now, event: startedEvent({ ...run, id }) }]);
    return id;
  }
  throw new AleError("store", `no free id for a run named ${run.name}`, { hint: "try again in a second" });
}

async function requireRun(tx: LibSQLDatabase, runId: string): Promise<typeof schema.runs.$inferSelect> {
  const [run] = await tx.select().from(schema.runs).where(eq(schema.runs.id, runId));
  if (run !== undefined) return run;
  throw new AleError("store", `there is no run ${runId}`, { hint: "list them with: ale runs ls" });
}

async function claimRun(tx: LibSQLDatabase, runId: string, owner: string, steps: number | undefined): Promise<null> {
  const run = await requireRun(tx, runId);
  if (run.owner !== owner && isAlive(run.owner)) {
    const pid = run.owner?.split(":")[0];
    throw new AleError("store", `run ${runId} is being worked on by process ${pid}`, {
      hint: `wait for it, or stop it with: kill ${pid}`,
    });
  }
  await tx
    .update(schema.runs)
    .set({
      owner,
      status: "running",
      reason: null,
      finishedAt: null,
      updatedAt: Date.now(),
      ...(steps === undefined ? {} : { steps }),
    })
    .where(eq(schema.runs.id, runId));
  const event = startedEvent({ ...run, steps: steps ?? run.steps });
  const resumed = run.committedStep === null ? event : { ...event, resumedFrom: run.committedStep };
  await insertEvents(tx, [{ runId, at: Date.now(), event: resumed }]);
  return null;
}

type Started = Pick<NewRun, "name" | "outDir" | "seed" | "algorithm" | "isolation" | "steps"> & { readonly id: string };

function startedEvent(run: Started): EventOf<"run.started"> {
  const { id, name, outDir, seed, algorithm, isolation, steps } = run;
  return { type: "run.started", runId: id, name, outDir, seed, algorithm, isolation, steps };
}

async function endRun(tx: LibSQLDatabase, end: Extract<WriteOperation, { type: "endRun" }>): Promise<null> {
  await requireRun(tx, end.runId);
  const now = Date.now();
  await tx
    .update(schema.runs)
    .set({ status: end.status, reason: end.reason ?? null, owner: null, updatedAt: now, finishedAt: now })
    .where(eq(schema.runs.id, end.runId));
  const { runId, status, reason } = end;
  const event = { type: "run.finished" as const, runId, status, ...(reason === undefined ? {} : { reason }) };
  await insertEvents(tx, [{ runId, at: now, event }]);
  return null;
}

async function commitStep(
  transaction: WriteTransaction,
  { runId, step, commit }: Extract<WriteOperation, { type: "commitStep" }>,
): Promise<null> {
  const tx = transaction.database;
  const run = await requireRun(tx, runId);
  if (!Number.isSafeInteger(step) || step < 0) throw new AleError("store", `${step} is not a step of run ${runId}`);
  if (run.committedStep !== null && step <= run.committedStep) {
    throw new AleError(
      "store",
      `step ${step} of run ${runId} cannot be committed: step ${run.committedStep} already is`,
    );
  }
  const now = Date.now();
  const { wallSeconds, weightVersion } = commit;
  await tx.insert(schema.steps).values({ runId, step, committedAt: now, wallSeconds, state: commit.state ?? {} });
  const values = Object.entries(commit.metrics).map(([name, value]) => ({
    runId,
    step,
    name,
    value: Number.isFinite(value) ? value : null,
  }));
  if (values.length > 0) await tx.insert(schema.metrics).values(values);
  await tx
    .insert(schema.weightVersions)
    .values({ runId, version: weightVersion, step, createdAt: now })
    .onConflictDoNothing();
  for (const row of commit.evaluations ?? []) {
    await tx.insert(schema.evaluations).values({ ...row, runId });
  }
  await recordCheckpoints(tx, runId, step, commit, now);
  if (commit.timeline !== undefined) await writeTimeline(tx, runId, step, commit.timeline);
  if (commit.pending !== undefined) await writePending(transaction, runId, step, commit.pending);
  const events: AleEvent[] = [
    ...(commit.evaluations ?? []).map((row) => ({ type: "evaluation.finished" as const, ...row })),
    { type: "step.finished", step, metrics: commit.metrics },
  ];
  await insertEvents(
    tx,
    events.map((event) => ({ runId, at: now, event })),
  );
  // Those of steps after the last commit, of which some may have no commit of their own.
  const added = await tx.$count(
    schema.episodes,
    and(
      eq(schema.episodes.runId, runId),
      gt(schema.episodes.step, run.committedStep ?? -1),
      lte(schema.episodes.step, step),
    ),
  );
  await tx
    .update(schema.runs)
    .set({ committedStep: step, wallSeconds, episodes: run.episodes + added, updatedAt: now })
    .where(eq(schema.runs.id, runId));
  return null;
}

async function recordCheckpoints(
  tx: LibSQLDatabase,
  runId: string,
  step: number,
  commit: Omit<StepCommit, "pending">,
  now: number,
) {
  const { checkpoint, prunedCheckpoints: pruned = [], weightVersion } = commit;
  if (checkpoint !== undefined) {
    await tx.insert(schema.checkpoints).values({ runId, step, path: checkpoint.path, weightVersion, createdAt: now });
  }
  if (pruned.length > 0) {
    await tx
      .update(schema.checkpoints)
      .set({ prunedAt: now })
      .where(and(eq(schema.checkpoints.runId, runId), inArray(schema.checkpoints.step, [...pruned])));
  }
}

/** Undoes everything after `step`, and whatever later steps left behind without a commit. */
async function truncateAfter(tx: LibSQLDatabase, runId: string, step: number): Promise<Truncation> {
  const run = await requireRun(tx, runId);
  const keep = Math.min(step, run.committedStep ?? -1);
  const stepped = [
    schema.steps,
    schema.metrics,
    schema.weightVersions,
    schema.checkpoints,
    schema.evaluations,
    schema.timelines,
    schema.events,
  ] as const;
  const countSteps = () => tx.$count(schema.steps, eq(schema.steps.runId, runId));
  const countEpisodes = () => tx.$count(schema.episodes, eq(schema.episodes.runId, runId));
  const stepsBefore = await countSteps();
  const episodesBefore = await countEpisodes();
  // Episodes, turns and tokens go with their group.
  await tx.delete(schema.groups).where(and(eq(schema.groups.runId, runId), gt(schema.groups.step, keep)));
  await truncatePending(tx, runId, keep);
  for (const table of stepped) await tx.delete(table).where(and(eq(table.runId, runId), gt(table.step, keep)));
  const [last] = await tx
    .select({ step: max(schema.steps.step), wallSeconds: max(schema.steps.wallSeconds) })
    .from(schema.steps)
    .where(eq(schema.steps.runId, runId));
  const episodes = await countEpisodes();
  await tx
    .update(schema.runs)
    .set({
      committedStep: last?.step ?? null,
      wallSeconds: last?.wallSeconds ?? 0,
      episodes,
      updatedAt: sql`max(${schema.runs.updatedAt}, ${Date.now()})`,
    })
    .where(eq(schema.runs.id, runId));
  return {
    step: last?.step ?? null,
    removedSteps: stepsBefore - (await countSteps()),
    removedEpisodes: episodesBefore - episodes,
  };
}

async function insertEvents(tx: LibSQLDatabase, events: readonly NewEvent[]): Promise<void> {
  for (let i = 0; i < events.length; i += 500) {
    await tx.insert(schema.events).values(
      events.slice(i, i + 500).map(({ runId, at, event }) => {
        const { type, ...body } = event;
        return { runId, at, type, body, step: stepOf(event) };
      }),
    );
  }
}

async function insertAlerts(tx: LibSQLDatabase, alerts: readonly SandboxAlert[]): Promise<void> {
  if (alerts.length === 0) return;
  await tx.insert(schema.alerts).values(alerts.map((alert) => ({ ...alert })));
  // What was done in a sandbox is its owner's; the event says only that something was.
  const events = alerts.map(({ kind, action, at, sandbox }) => {
    return { runId: null, at, event: { type: "guard.alert" as const, kind, action, sandbox } };
  });
  await insertEvents(tx, events);
}

function stepOf(event: AleEvent): number | null {
  return "step" in event ? (event.step ?? null) : null;
}
