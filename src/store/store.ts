/**
 * The store: one libSQL file with many runs. Writes go through the one writer, each call resolves when its data is
 * committed; reads use a connection that cannot write. Several processes may use the same file.
 */

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { AleError } from "../core/errors.ts";
import type { RunStatus } from "../core/events.ts";
import type { Track } from "../core/timeline.ts";
import type { Trajectory } from "../core/types.ts";
import { selectAudit } from "./audit.ts";
import { type Connection, needsMigration, openReader } from "./connection.ts";
import { describeDatabaseError } from "./database-errors.ts";
import { layOutAll, messagesOf, toNewEpisode, toPendingCommit } from "./messages.ts";
import {
  type NewEvent,
  type NewRun,
  type SandboxAlert,
  type StepCommit,
  type StoredTask,
  type Truncation,
  textBytes,
  type WriteOperation,
} from "./operations.ts";
import { processIdentity } from "./owner.ts";
import { selectPending } from "./pending-episodes.ts";
import { type AlertFilter, type AlertPageRequest, selectAlerts } from "./read-alerts.ts";
import * as readEpisodes from "./read-episodes.ts";
import * as readRuns from "./read-runs.ts";
import type {
  AlertPage,
  AuditFilter,
  AuditPage,
  CheckpointRecord,
  CommittedStep,
  EpisodeDetail,
  EpisodeFilter,
  EpisodePage,
  EvaluationRecord,
  EventRecord,
  FamilyRecord,
  MetricsRow,
  RunRecord,
  StepRecord,
} from "./records.ts";
import type { EpisodePurpose } from "./schema.ts";
import { selectTimeline, selectTimelineSteps } from "./timelines.ts";
import { Writer } from "./writer.ts";

export interface StoreOptions {
  /** `read` opens an existing file only, and starts no writer. */
  readonly mode?: "write" | "read";
  /** Survive a power failure without losing the last second (an fsync per commit). */
  readonly durable?: boolean;
  /** Largest size of the file in bytes; writing more fails like a full disk. */
  readonly maxBytes?: number;
  /** How long a statement waits for another process's lock, in milliseconds. */
  readonly busyMs?: number;
  /** Waits until a full disk has room again, so that what was refused is written once more; rejects to give up. */
  readonly whenFull?: (error: AleError) => Promise<void>;
}

/** Messages of one call that wait for their commit at once: one is written while the next is laid out. */
const MESSAGES_IN_FLIGHT = 2;
/** About what a commit occupies without the episodes that wait. */
const COMMIT_BYTES = 64 << 10;
const EPISODES_PER_READ = 100;
/** With turns and tokens: some milliseconds of the event loop. */
const DETAILS_PER_READ = 25;
const EVENTS_PER_READ = 1000;

/**
 * Opens (and in mode `write` creates or migrates) a store.
 * @throws AleError("store") when the file is no store, damaged, newer than this code, locked, missing or not writable;
 * AleError("storage_full").
 */
export async function openStore(path: string, options: StoreOptions = {}): Promise<Store> {
  const file = resolve(path);
  const settings = {
    durable: options.durable ?? false,
    ...(options.maxBytes === undefined ? {} : { maxBytes: options.maxBytes }),
    ...(options.busyMs === undefined ? {} : { busyMs: options.busyMs }),
  };
  if (options.mode === "read") {
    const reader = await openReader(file, options.busyMs);
    if (!(await needsMigration(reader))) return new Store(reader, undefined);
    reader.client.close();
    await (await Writer.open(file, settings)).close();
    return new Store(await openReader(file, options.busyMs), undefined);
  }
  const writer = await Writer.open(file, settings);
  try {
    return new Store(await openReader(file, options.busyMs), writer, options.whenFull);
  } catch (error) {
    await writer.close();
    throw error;
  }
}

/** Is there a store at `path`? */
export function storeExists(path: string): boolean {
  return existsSync(path);
}

export class Store implements AsyncDisposable {
  readonly #reader: Connection;
  readonly #writer: Writer | undefined;
  readonly #whenFull: StoreOptions["whenFull"];

  constructor(reader: Connection, writer: Writer | undefined, whenFull?: StoreOptions["whenFull"]) {
    this.#reader = reader;
    this.#writer = writer;
    this.#whenFull = whenFull;
  }

  get path(): string {
    return this.#reader.path;
  }

  get writable(): boolean {
    return this.#writer !== undefined;
  }

  // Each write resolves when it is committed. Those about runs and steps record their event in the same transaction:
  // run.started, evaluation.finished, step.finished, run.finished.
  // --- writing -------------------------------------------------------------------------------------------------------

  /** Creates a run in state `running`, worked on by this process, and returns its id. */
  async createRun(run: NewRun): Promise<string> {
    return this.#requireWriter().write({ type: "createRun", run, owner: ownIdentity() }, run.configToml.length);
  }

  /**
   * Takes a run over to go on with it. `steps` is its new number of steps, where that changed.
   * @throws AleError("store") when another living process works on it.
   */
  async claimRun(runId: string, steps?: number): Promise<void> {
    const claim = { type: "claimRun", runId, owner: ownIdentity(), ...(steps === undefined ? {} : { steps }) } as const;
    await this.#requireWriter().write(claim, 0);
  }

  /** Ends the work of this process on the run. */
  async endRun(runId: string, status: Exclude<RunStatus, "running">, reason?: string): Promise<void> {
    const end = { type: "endRun", runId, status, ...(reason === undefined ? {} : { reason }) } as const;
    await this.#persist(() => [end, 0, []]);
  }

  /** Records tasks with their instructions; episodes alone record what their trajectory says of the task. */
  async writeTasks(tasks: readonly StoredTask[]): Promise<void> {
    const rows = tasks.map(({ id, suite, family, split, seed, instruction }) => ({
      ...{ id, suite, family, split, seed },
      ...(instruction === undefined ? {} : { instruction }),
    }));
    await this.#persist(() => [{ type: "writeTasks", tasks: rows }, rows.length * 512, []]);
  }

  /**
   * Stores episodes of a step that is not committed yet, in messages of up to 256 episodes or 4 MB of tokens, each of which is
   * written completely or not at all; between them the event loop turns.
   * @throws AleError("store") when an episode of that id is stored already; AleError("storage_full").
   */
  async writeEpisodes(
    runId: string,
    step: number,
    purpose: EpisodePurpose,
    trajectories: readonly Trajectory[],
  ): Promise<void> {
    const written: Promise<unknown>[] = [];
    for (const some of messagesOf(trajectories)) {
      await written.at(-MESSAGES_IN_FLIGHT);
      if (written.length > 0) await new Promise((resolve) => setImmediate(resolve));
      const writing = this.#persist((writer) => {
        const episodes = some.map(toNewEpisode);
        const tokens = layOutAll(some, (size) => writer.buffer(size));
        const bytes = tokens.buffer.byteLength + episodes.reduce((sum, episode) => sum + textBytes(episode), 0);
        return [{ type: "writeEpisodes", runId, step, purpose, episodes, tokens }, bytes, [tokens.buffer]];
      });
      writing.catch(() => {}); // told below
      written.push(writing);
    }
    await Promise.all(written);
  }

  /**
   * Makes a step permanent: metrics, evaluations, weight version, checkpoint and state appear in one transaction, or not
   * at all. @throws AleError("store") when the step, or a later one, is committed already.
   */
  async commitStep(runId: string, step: number, commit: StepCommit): Promise<void> {
    const { pending, ...rest } = commit;
    await this.#persist((writer) => {
      const sent = pending && toPendingCommit(pending, commit.checkpoint !== undefined, writer);
      const operation = {
        type: "commitStep",
        runId,
        step,
        commit: { ...rest, ...(sent && { pending: sent }) },
      } as const;
      if (sent === undefined) return [operation, COMMIT_BYTES, []];
      return [operation, COMMIT_BYTES + sent.tokens.buffer.byteLength, [sent.tokens.buffer]];
    });
  }

  /** Removes in one transaction whatever belongs to steps after `step`, and to steps without a commit. */
  async truncateAfter(runId: string, step: number): Promise<Truncation> {
    return this.#requireWriter().write({ type: "truncateAfter", runId, step }, 0);
  }

  async appendEvents(events: readonly NewEvent[]): Promise<void> {
    await this.#persist(() => [{ type: "appendEvents", events }, events.length * 256, []]);
  }

  /** Alerts of the service's sandboxes, with their events; those of episodes are stored with them. */
  async appendAlerts(alerts: readonly SandboxAlert[]): Promise<void> {
    await this.#persist(() => [{ type: "appendAlerts", alerts }, alerts.length * 1024, []]);
  }

  // --- reading -------------------------------------------------------------------------------------------------------

  /** Newest first. */
  async listRuns(limit = 1000): Promise<RunRecord[]> {
    return this.#read((database) => readRuns.selectRuns(database, limit));
  }

  /** The run with that id, or with the only id that begins so. Throws `AleError("store")` for none or several. */
  async getRun(idOrPrefix: string): Promise<RunRecord> {
    return this.#read((database) => readRuns.selectRun(database, idOrPrefix));
  }

  /** The full id for a unique prefix. Throws as `getRun`. */
  async resolveRun(prefix: string): Promise<string> {
    return (await this.getRun(prefix)).id;
  }

  /** The newest run whose results are in that folder. */
  async findRunByFolder(outDir: string): Promise<RunRecord | undefined> {
    return this.#read((database) => readRuns.selectRunByFolder(database, resolve(outDir)));
  }

  /** Id of the process that works on the run; undefined when none does. */
  async findProcess(runId: string): Promise<number | undefined> {
    return this.#read((database) => readRuns.selectOwner(database, runId));
  }

  /** The resolved experiment file of a run. */
  async readConfiguration(hash: string): Promise<string | undefined> {
    return this.#read((database) => readRuns.selectConfiguration(database, hash));
  }

  async lastCommitted(runId: string): Promise<CommittedStep | undefined> {
    return this.#read((database) => readRuns.selectLastCommitted(database, runId));
  }

  /** Trajectories that waited for training when `step` was committed. */
  async readPending(runId: string, step: number): Promise<Trajectory[]> {
    return this.#read((database) => selectPending(database, runId, step));
  }

  async readSteps(runId: string): Promise<StepRecord[]> {
    return this.#read((database) => readRuns.selectSteps(database, runId));
  }

  /** Checkpoints that were not pruned, oldest first. */
  async readCheckpoints(runId: string): Promise<CheckpointRecord[]> {
    return this.#read((database) => readRuns.selectCheckpoints(database, runId));
  }

  /** One row per step, in order. */
  async readMetrics(runId: string, filter: readRuns.MetricsFilter = {}): Promise<MetricsRow[]> {
    const pages = await Array.fromAsync(this.metrics(runId, filter));
    return pages.flat();
  }

  /** As `readMetrics`, some rows at a time; between them the event loop turns. */
  async *metrics(runId: string, filter: readRuns.MetricsFilter = {}): AsyncGenerator<MetricsRow[]> {
    const pages = readRuns.selectMetrics(this.#reader.database, runId, filter);
    for (;;) {
      const { value } = await this.#read(() => pages.next());
      if (value === undefined) return;
      yield value;
    }
  }

  async readEvaluations(runId: string): Promise<EvaluationRecord[]> {
    return this.#read((database) => readRuns.selectEvaluations(database, runId));
  }

  /** Steps whose timeline is kept, in order. */
  async readTimelineSteps(runId: string): Promise<number[]> {
    return this.#read((database) => selectTimelineSteps(database, runId));
  }

  /** What happened when in a step; no tracks where that was not recorded or is no longer kept. */
  async readTimeline(runId: string, step: number): Promise<Track[]> {
    return this.#read((database) => selectTimeline(database, runId, step));
  }

  async readEpisodes(
    filter: EpisodeFilter,
    page: { readonly limit?: number; readonly cursor?: string; readonly newestFirst?: boolean } = {},
  ): Promise<EpisodePage> {
    const { limit = EPISODES_PER_READ, newestFirst = false, cursor } = page;
    const settings = { limit, newestFirst, ...(cursor === undefined ? {} : { cursor }) };
    return this.#read((database) => readEpisodes.selectEpisodes(database, filter, settings));
  }

  async readEpisode(id: string): Promise<EpisodeDetail | undefined> {
    return this.#read((database) => readEpisodes.selectEpisode(database, id));
  }

  /** A page of the audit log. */
  async readAudit(filter: AuditFilter, page: { readonly limit: number; readonly cursor?: string }): Promise<AuditPage> {
    return this.#read((database) => selectAudit(database, filter, page));
  }

  /**
   * Episodes with turns and tokens in the order they were written; holds `DETAILS_PER_READ` of them at a time, between which
   * the event loop turns.
   */
  async *episodes(filter: EpisodeFilter): AsyncGenerator<EpisodeDetail> {
    for (let after = 0; ; ) {
      const from = after;
      const { details, last } = await this.#read((database) =>
        readEpisodes.selectDetails(database, filter, from, DETAILS_PER_READ),
      );
      yield* details;
      if (last === undefined) return;
      after = last;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Episodes and successes per family and split, over all runs or one. */
  async readFamilies(runId?: string): Promise<FamilyRecord[]> {
    return this.#read((database) => readEpisodes.selectFamilies(database, runId));
  }

  /** Alerts of the guards, the newest first. */
  async readAlerts(filter: AlertFilter = {}, page: AlertPageRequest = {}): Promise<AlertPage> {
    return this.#read((database) => selectAlerts(database, filter, page));
  }

  /** Events after `sinceId`, oldest first. */
  async readEvents(
    filter: { readonly runId?: string; readonly sinceId?: number; readonly limit?: number } = {},
  ): Promise<EventRecord[]> {
    const { sinceId = 0, limit = EVENTS_PER_READ, runId } = filter;
    const settings = { sinceId, limit, ...(runId === undefined ? {} : { runId }) };
    return this.#read((database) => readRuns.selectEvents(database, settings));
  }

  async lastEventId(): Promise<number> {
    return this.#read((database) => readRuns.selectLastEventId(database));
  }

  async close(): Promise<void> {
    this.#reader.client.close();
    await this.#writer?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Writes what `make` says; made anew and written again where the disk was full and `whenFull` found room. */
  async #persist(
    make: (writer: Writer) => readonly [operation: WriteOperation, bytes: number, moved: ArrayBuffer[]],
  ): Promise<void> {
    for (;;) {
      try {
        const writer = this.#requireWriter();
        await writer.write(...make(writer));
        return;
      } catch (error) {
        if (!(error instanceof AleError) || error.code !== "storage_full" || this.#whenFull === undefined) throw error;
        await this.#whenFull(error);
      }
    }
  }

  #requireWriter(): Writer {
    if (this.#writer !== undefined) return this.#writer;
    throw new AleError("internal", `the store ${this.path} was opened for reading`);
  }

  async #read<T>(query: (database: Connection["database"]) => Promise<T>): Promise<T> {
    try {
      return await query(this.#reader.database);
    } catch (error) {
      throw describeDatabaseError(error, this.path, "reading the store");
    }
  }
}

function ownIdentity(): string {
  return processIdentity(process.pid) ?? `${process.pid}:`;
}
