/**
 * Tables of the store. Times are milliseconds since 1970 unless a name says otherwise. After a change:
 * `bunx drizzle-kit generate --dialect sqlite --schema src/store/schema.ts --out src/store/migrations`; a migration that
 * was released is never edited.
 */

import { sql } from "drizzle-orm";
import { blob, check, index, integer, primaryKey, real, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import type { AlertAction, AlertKind } from "../core/alerts.ts";
import type { RunStatus } from "../core/events.ts";
import type { AuditEntry, GradingMode, Split, StopReason } from "../core/types.ts";
import { foreignText } from "./foreign-text.ts";

/** What an episode was for: training, or evaluation with sampled or with greedy answers. */
export type EpisodePurpose = "train" | "eval" | "greedy";

const cascade = { onDelete: "cascade" } as const;

/** Resolved experiment files, by content hash: runs of the same configuration share a row. */
export const configurations = sqliteTable("configurations", {
  hash: text("hash").primaryKey(),
  toml: text("toml").notNull(),
  createdAt: integer("created_at").notNull(),
});

export const runs = sqliteTable(
  "runs",
  {
    id: text("id").primaryKey(),
    name: text("name").notNull(),
    status: text("status").$type<RunStatus>().notNull(),
    /** Why the run ended, where that needs saying. */
    reason: foreignText("reason"),
    algorithm: text("algorithm").notNull(),
    seed: integer("seed").notNull(),
    configHash: text("config_hash")
      .notNull()
      .references(() => configurations.hash),
    outDir: text("out_dir").notNull(),
    isolation: text("isolation").notNull(),
    aleVersion: text("ale_version").notNull(),
    /** Steps the run is to have at its end. */
    steps: integer("steps").notNull(),
    /** Last committed step; null before the first commit. */
    committedStep: integer("committed_step"),
    episodes: integer("episodes").notNull().default(0),
    /** Seconds of work up to the last commit, over all resumptions. */
    wallSeconds: real("wall_seconds").notNull().default(0),
    /** `pid:start` of the process that works on the run (fields 1 and 22 of /proc/pid/stat). */
    owner: text("owner"),
    createdAt: integer("created_at").notNull(),
    updatedAt: integer("updated_at").notNull(),
    finishedAt: integer("finished_at"),
  },
  (t) => [index("runs_created").on(t.createdAt), index("runs_out_dir").on(t.outDir)],
);

export const tasks = sqliteTable(
  "tasks",
  {
    id: integer("id").primaryKey(),
    /** `suite/family/split/seed`, or `suite/name`. */
    key: text("key").notNull(),
    suite: text("suite").notNull(),
    family: text("family").notNull(),
    split: text("split").$type<Split>().notNull(),
    seed: integer("seed").notNull(),
    instruction: foreignText("instruction"),
  },
  (t) => [uniqueIndex("tasks_key").on(t.key), index("tasks_family").on(t.family, t.split)],
);

/** A committed step: its row appears in the same transaction as everything the step produced. */
export const steps = sqliteTable(
  "steps",
  {
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    step: integer("step").notNull(),
    committedAt: integer("committed_at").notNull(),
    wallSeconds: real("wall_seconds").notNull(),
    /** Positions of random number streams and samplers: what `resume` needs besides the checkpoint. */
    state: text("state", { mode: "json" }).$type<Readonly<Record<string, unknown>>>().notNull(),
  },
  (t) => [primaryKey({ columns: [t.runId, t.step] })],
);

export const groups = sqliteTable(
  "groups",
  {
    id: integer("id").primaryKey(),
    key: text("key").notNull(),
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    step: integer("step").notNull(),
    taskId: integer("task_id")
      .notNull()
      .references(() => tasks.id),
  },
  (t) => [uniqueIndex("groups_key").on(t.runId, t.key), index("groups_step").on(t.runId, t.step)],
);

export const episodes = sqliteTable(
  "episodes",
  {
    id: integer("id").primaryKey(),
    key: text("key").notNull(),
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    groupId: integer("group_id")
      .notNull()
      .references(() => groups.id, cascade),
    taskId: integer("task_id")
      .notNull()
      .references(() => tasks.id),
    step: integer("step").notNull(),
    purpose: text("purpose").$type<EpisodePurpose>().notNull(),
    member: integer("member").notNull(),
    /** Null for episodes that began at the task's start: the expert's chunk (from 1) before which this one began. */
    forkAnchor: integer("fork_anchor"),
    /** Chunks the expert needed. */
    forkChunks: integer("fork_chunks"),
    /** Key of the episode that was the expert, or `oracle`. */
    forkExpert: text("fork_expert"),
    reward: real("reward").notNull(),
    stopReason: text("stop_reason").$type<StopReason>().notNull(),
    error: foreignText("error"),
    isolation: text("isolation").notNull(),
    grading: text("grading").$type<GradingMode>().notNull(),
    turns: integer("turns").notNull(),
    tokens: integer("tokens").notNull(),
    /** Tokens the policy sampled. */
    sampledTokens: integer("sampled_tokens").notNull(),
    startedAt: integer("started_at").notNull(),
    resetMs: real("reset_ms").notNull(),
    generateMs: real("generate_ms").notNull(),
    toolMs: real("tool_ms").notNull(),
    gradeMs: real("grade_ms").notNull(),
  },
  (t) => [
    uniqueIndex("episodes_key").on(t.key),
    index("episodes_step").on(t.runId, t.step, t.purpose),
    index("episodes_group").on(t.groupId),
    index("episodes_task").on(t.taskId),
  ],
);

export const turns = sqliteTable(
  "turns",
  {
    episodeId: integer("episode_id")
      .notNull()
      .references(() => episodes.id, cascade),
    turn: integer("turn").notNull(),
    command: foreignText("command").notNull(),
    observation: foreignText("observation").notNull(),
    exitCode: integer("exit_code"),
    /** Milliseconds since the episode began, like the two below. */
    startedMs: real("started_ms").notNull(),
    generatedMs: real("generated_ms").notNull(),
    observedMs: real("observed_ms").notNull(),
  },
  (t) => [primaryKey({ columns: [t.episodeId, t.turn] })],
);

/** What was run in the sandboxes of an episode, and every connection of theirs; columns of the other kind are null. */
export const sandboxAudit = sqliteTable(
  "sandbox_audit",
  {
    id: integer("id").primaryKey(),
    episodeId: integer("episode_id")
      .notNull()
      .references(() => episodes.id, cascade),
    /** Null outside of turns. */
    turn: integer("turn"),
    phase: text("phase").$type<AuditEntry["phase"]>().notNull(),
    kind: text("kind").$type<AuditEntry["kind"]>().notNull(),
    sandbox: text("sandbox").notNull(),
    at: integer("at").notNull(),
    ms: real("ms").notNull(),
    /** Null: that of the turn. */
    command: foreignText("command"),
    exitCode: integer("exit_code"),
    /** As the sandbox named it. */
    host: foreignText("host"),
    /** What was connected to; null where nothing was. */
    address: text("address"),
    port: integer("port"),
    verdict: text("verdict").$type<"allowed" | "denied" | "failed">(),
    reason: foreignText("reason"),
    /** Bytes that left the sandbox, and that came to it. */
    bytesOut: integer("bytes_out"),
    bytesIn: integer("bytes_in"),
  },
  (t) => [
    index("sandbox_audit_episode").on(t.episodeId, t.turn),
    index("sandbox_audit_verdict").on(t.verdict).where(sql`verdict IS NOT NULL`),
  ],
);

/** Token arrays, packed and compressed by `tokens.ts`; a table of their own keeps the others small. */
export const tokens = sqliteTable("tokens", {
  episodeId: integer("episode_id")
    .primaryKey()
    .references(() => episodes.id, cascade),
  format: integer("format").notNull(),
  count: integer("count").notNull(),
  data: blob("data", { mode: "buffer" }).notNull(),
});

/**
 * Trajectories that were collected ahead of training and that no step has had yet, as of the commits from `fromStep` until
 * before `untilStep` (null: still so). A run that goes on from a commit finds those that waited then; a step that trains on
 * them stores them as episodes.
 */
export const pendingEpisodes = sqliteTable(
  "pending_episodes",
  {
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    key: text("key").notNull(),
    fromStep: integer("from_step").notNull(),
    untilStep: integer("until_step"),
    /** The trajectory as JSON, without its tokens. */
    body: text("body").notNull(),
    format: integer("format").notNull(),
    count: integer("count").notNull(),
    data: blob("data", { mode: "buffer" }).notNull(),
  },
  (t) => [primaryKey({ columns: [t.runId, t.key] })],
);

/** What the sandbox guards raised, in episodes of runs and in sandboxes of the service. */
export const alerts = sqliteTable(
  "alerts",
  {
    id: integer("id").primaryKey({ autoIncrement: true }),
    /** Null for sandboxes of the service. */
    runId: text("run_id").references(() => runs.id, cascade),
    episodeId: integer("episode_id").references(() => episodes.id, cascade),
    /** Name of the service's sandbox; null for episodes. */
    sandbox: text("sandbox"),
    turn: integer("turn"),
    kind: text("kind").$type<AlertKind>().notNull(),
    action: text("action").$type<AlertAction>().notNull(),
    at: integer("at").notNull(),
    evidence: text("evidence").notNull(),
  },
  (t) => [index("alerts_run").on(t.runId, t.id), index("alerts_episode").on(t.episodeId)],
);

export const metrics = sqliteTable(
  "metrics",
  {
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    step: integer("step").notNull(),
    name: text("name").notNull(),
    /** Null where the value was not a finite number. */
    value: real("value"),
  },
  (t) => [primaryKey({ columns: [t.runId, t.step, t.name] })],
);

export const weightVersions = sqliteTable(
  "weight_versions",
  {
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    version: integer("version").notNull(),
    step: integer("step").notNull(),
    createdAt: integer("created_at").notNull(),
  },
  (t) => [primaryKey({ columns: [t.runId, t.version] }), index("weight_versions_step").on(t.runId, t.step)],
);

export const checkpoints = sqliteTable(
  "checkpoints",
  {
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    step: integer("step").notNull(),
    path: text("path").notNull(),
    weightVersion: integer("weight_version").notNull(),
    createdAt: integer("created_at").notNull(),
    /** When its folder was given up to save space. */
    prunedAt: integer("pruned_at"),
  },
  (t) => [primaryKey({ columns: [t.runId, t.step] })],
);

export const evaluations = sqliteTable(
  "evaluations",
  {
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    step: integer("step").notNull(),
    split: text("split").$type<Split>().notNull(),
    greedy: integer("greedy", { mode: "boolean" }).notNull(),
    rate: real("rate").notNull(),
    n: integer("n").notNull(),
    low: real("low").notNull(),
    high: real("high").notNull(),
    perFamily: text("per_family", { mode: "json" })
      .$type<Readonly<Record<string, { readonly rate: number; readonly n: number }>>>()
      .notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.runId, t.step, t.split, t.greedy] }),
    check("evaluations_interval", sql`${t.low} <= ${t.high}`),
  ],
);

/** What happened when, in the newest steps of a run: a block per step and track, packed by `timelines.ts`. */
export const timelines = sqliteTable(
  "timelines",
  {
    runId: text("run_id")
      .notNull()
      .references(() => runs.id, cascade),
    step: integer("step").notNull(),
    /** `control`, `episodes`, `engine/<i>`. */
    track: text("track").notNull(),
    /** Of the first span; with fractions. */
    startedAt: real("started_at").notNull(),
    /** Spans. */
    count: integer("count").notNull(),
    format: integer("format").notNull(),
    data: blob("data", { mode: "buffer" }).notNull(),
  },
  (t) => [primaryKey({ columns: [t.runId, t.step, t.track] })],
);

/** The log that the page and other readers follow; ids only grow, so the last id read is where to go on. */
export const events = sqliteTable(
  "events",
  {
    id: integer("id").primaryKey({ autoIncrement: true }),
    runId: text("run_id").references(() => runs.id, cascade),
    /** Step the event belongs to; such events go when the step is undone. */
    step: integer("step"),
    at: integer("at").notNull(),
    type: text("type").notNull(),
    body: text("body", { mode: "json" }).$type<Readonly<Record<string, unknown>>>().notNull(),
  },
  (t) => [index("events_run").on(t.runId, t.id)],
);
