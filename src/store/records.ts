/** What reading the store gives. */

import type { Alert } from "../core/alerts.ts";
import type { EvaluationSummary, RunStatus } from "../core/events.ts";
import type { AuditEntry, ConnectionRecord, PhaseTimes, Split, StopReason, TokenRecord, Turn } from "../core/types.ts";
import type { EpisodePurpose } from "./schema.ts";

export interface RunRecord {
  readonly id: string;
  readonly name: string;
  /** `interrupted` also where a run says `running` but its process is gone. */
  readonly status: RunStatus;
  readonly reason: string | null;
  readonly algorithm: string;
  readonly seed: number;
  readonly configHash: string;
  readonly outDir: string;
  readonly isolation: string;
  readonly aleVersion: string;
  /** Steps the run is to have at its end. */
  readonly steps: number;
  readonly committedStep: number | null;
  /** Of committed steps. */
  readonly episodes: number;
  readonly wallSeconds: number;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly finishedAt: number | null;
}

export interface StepRecord {
  readonly step: number;
  readonly committedAt: number;
  readonly wallSeconds: number;
  readonly state: Readonly<Record<string, unknown>>;
}

export interface CheckpointRecord {
  readonly step: number;
  readonly path: string;
  readonly weightVersion: number;
  readonly createdAt: number;
}

/** The newest committed step and what a resumed run goes on from. */
export interface CommittedStep extends StepRecord {
  /** Newest checkpoint that was not pruned; its step may be older. */
  readonly checkpoint: CheckpointRecord | null;
}

export interface MetricsRow {
  readonly step: number;
  /** Values by name; null where a value was not a finite number. */
  readonly metrics: Readonly<Record<string, number | null>>;
}

export interface EpisodeRecord {
  readonly id: string;
  readonly runId: string;
  readonly groupId: string;
  readonly taskId: string;
  readonly family: string;
  readonly split: Split;
  readonly seed: number;
  readonly step: number;
  readonly purpose: EpisodePurpose;
  readonly member: number;
  /** Null for episodes that began at the task's start: the expert's chunk (from 1) before which this one began. */
  readonly forkAnchor: number | null;
  readonly forkChunks: number | null;
  /** Id of the episode that was the expert, or `oracle`. */
  readonly forkExpert: string | null;
  readonly reward: number;
  readonly stopReason: StopReason;
  readonly error: string | null;
  readonly isolation: string;
  readonly grading: string;
  readonly turns: number;
  readonly tokens: number;
  readonly sampledTokens: number;
  /** Number of alerts of the guards. */
  readonly alerts: number;
  readonly startedAt: number;
  readonly phases: PhaseTimes;
}

/** An alert of an episode, or of a sandbox of the service. */
export interface AlertRecord extends Alert {
  readonly id: number;
  readonly runId: string | null;
  readonly episodeId: string | null;
  readonly step: number | null;
  readonly sandbox: string | null;
}

export interface AlertPage {
  readonly alerts: readonly AlertRecord[];
  /** Give it as `cursor` to get the next page; null on the last one. */
  readonly nextCursor: string | null;
}

export interface EpisodeDetail extends Omit<EpisodeRecord, "turns" | "tokens" | "alerts"> {
  readonly instruction: string | null;
  readonly turns: readonly Turn[];
  readonly alerts: readonly Alert[];
  readonly tokens: TokenRecord;
}

export interface EpisodeFilter {
  readonly runId?: string;
  readonly step?: number;
  readonly purpose?: EpisodePurpose;
  readonly family?: string;
  readonly split?: Split;
  readonly stopReason?: StopReason;
  /** Only episodes with the full reward, or only those without. */
  readonly solved?: boolean;
}

export interface EpisodePage {
  readonly episodes: readonly EpisodeRecord[];
  /** Give it as `cursor` to get the next page; null on the last one. */
  readonly nextCursor: string | null;
}

export interface AuditFilter {
  readonly runId?: string;
  /** Id of an episode. */
  readonly episode?: string;
  readonly verdict?: ConnectionRecord["verdict"];
  /** Only connections. */
  readonly connections?: boolean;
}

export interface AuditPage {
  readonly entries: readonly (AuditEntry & { readonly episode: string; readonly run: string; readonly step: number })[];
  /** Give it as `cursor` to get the next page; null on the last one. */
  readonly nextCursor: string | null;
}

export interface FamilyRecord {
  readonly suite: string;
  readonly family: string;
  readonly split: Split;
  readonly tasks: number;
  readonly episodes: number;
  readonly solved: number;
}

export interface EventRecord {
  readonly id: number;
  readonly runId: string | null;
  readonly at: number;
  readonly type: string;
  readonly body: Readonly<Record<string, unknown>>;
}

export type EvaluationRecord = EvaluationSummary;
