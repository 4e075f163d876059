/** What the writer can be asked to do. Each operation is applied completely or not at all. */

import type { Alert } from "../core/alerts.ts";
import type { AleEvent, EvaluationSummary, RunStatus } from "../core/events.ts";
import type { Track } from "../core/timeline.ts";
import type { Task, Trajectory } from "../core/types.ts";
import type { EpisodePurpose } from "./schema.ts";

export interface NewRun {
  readonly name: string;
  readonly algorithm: string;
  readonly seed: number;
  readonly configToml: string;
  readonly configHash: string;
  /** Absolute path of the run directory. */
  readonly outDir: string;
  readonly isolation: string;
  /** Steps the run is to have at its end. */
  readonly steps: number;
  readonly aleVersion: string;
}

/** Everything a step makes permanent; its `evaluation.finished` and `step.finished` events are recorded with it. */
export interface StepCommit {
  readonly metrics: Readonly<Record<string, number>>;
  readonly weightVersion: number;
  /** Seconds of work since the run began, over all resumptions. */
  readonly wallSeconds: number;
  /** What `resume` needs besides the checkpoint, such as positions of random number streams. */
  readonly state?: Readonly<Record<string, unknown>>;
  readonly evaluations?: readonly EvaluationSummary[];
  readonly checkpoint?: { readonly path: string };
  /** Steps whose checkpoint folders were removed to save space. */
  readonly prunedCheckpoints?: readonly number[];
  /** Episodes that were collected ahead of training and wait for it; omitted where a run never has any. */
  readonly pending?: Pending;
  /** What happened when; afterwards only the newest `keep` steps have a timeline. */
  readonly timeline?: { readonly tracks: readonly Track[]; readonly keep: number };
}

export interface Pending {
  /** All of them. */
  readonly episodes: readonly Trajectory[];
  /** Ids of those that an earlier commit of this process stored. */
  readonly stored: ReadonlySet<string>;
}

/** `Pending` on its way to the writer. */
export interface PendingCommit {
  readonly keys: readonly string[];
  readonly added: readonly NewEpisode[];
  /** The token blocks of `added`. */
  readonly tokens: Uint8Array<ArrayBuffer>;
  /** Nobody can go back before this step, so what waited only until then may go. */
  readonly forget: boolean;
}

export interface NewEvent {
  readonly runId: string | null;
  readonly at: number;
  readonly event: AleEvent;
}

/** What `truncateAfter` removed. */
export interface Truncation {
  /** Last step that remains; null when none does. */
  readonly step: number | null;
  readonly removedSteps: number;
  readonly removedEpisodes: number;
}

/** A trajectory whose tokens travel in a block. */
export interface NewEpisode extends Omit<Trajectory, "tokens" | "spans"> {
  readonly tokenCount: number;
  readonly sampledTokens: number;
}

/** About what an episode's text occupies in memory. */
export function textBytes({ turns, audit = [] }: NewEpisode): number {
  let bytes = 1024 + audit.length * 128;
  for (const turn of turns) bytes += 128 + turn.command.length + turn.observation.length;
  return bytes;
}

/** An alert of a sandbox of the service; its event is recorded with it. */
export interface SandboxAlert extends Alert {
  /** Name of the sandbox. */
  readonly sandbox: string;
}

export type WriteOperation =
  | { readonly type: "createRun"; readonly run: NewRun; readonly owner: string }
  | { readonly type: "claimRun"; readonly runId: string; readonly owner: string; readonly steps?: number }
  | { readonly type: "endRun"; readonly runId: string; readonly status: RunStatus; readonly reason?: string }
  | { readonly type: "writeTasks"; readonly tasks: readonly StoredTask[] }
  | {
      readonly type: "writeEpisodes";
      readonly runId: string;
      readonly step: number;
      readonly purpose: EpisodePurpose;
      readonly episodes: readonly NewEpisode[];
      /** The token blocks of all episodes, one after the other; moved to the writer, not copied. */
      readonly tokens: Uint8Array<ArrayBuffer>;
    }
  | {
      readonly type: "commitStep";
      readonly runId: string;
      readonly step: number;
      readonly commit: Omit<StepCommit, "pending"> & { readonly pending?: PendingCommit };
    }
  | { readonly type: "truncateAfter"; readonly runId: string; readonly step: number }
  | { readonly type: "appendEvents"; readonly events: readonly NewEvent[] }
  | { readonly type: "appendAlerts"; readonly alerts: readonly SandboxAlert[] };

/** The columns of a task; its files stay in the suite. */
export type StoredTask = Pick<Task, "id" | "suite" | "family" | "split" | "seed"> & { readonly instruction?: string };

/** What each operation answers. */
export interface WriteResults {
  readonly createRun: string;
  readonly claimRun: null;
  readonly endRun: null;
  readonly writeTasks: null;
  readonly writeEpisodes: null;
  readonly commitStep: null;
  readonly truncateAfter: Truncation;
  readonly appendEvents: null;
  readonly appendAlerts: null;
}

export type OperationType = WriteOperation["type"];

/** Main thread → writer. */
export type WriterRequest =
  | {
      readonly type: "open";
      readonly path: string;
      readonly durable: boolean;
      readonly maxBytes?: number;
      readonly busyMs?: number;
    }
  | { readonly type: "write"; readonly id: number; readonly operation: WriteOperation }
  | { readonly type: "close" };

/** An `AleError` as it crosses between threads. */
export interface ErrorMessage {
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
}

/** Writer → main thread. */
export type WriterReply =
  | { readonly type: "opened"; readonly error?: ErrorMessage }
  | {
      readonly type: "written";
      readonly id: number;
      readonly result?: unknown;
      readonly error?: ErrorMessage;
      /** What was moved to the writer, back for another message. */
      readonly memory?: ArrayBuffer;
    }
  | { readonly type: "closed" };
