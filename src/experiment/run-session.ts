/**
 * A run as the store and the run directory see it: created or taken over, committed step by step, ended once. The rule that
 * makes `ale resume` exact: a step's checkpoint is on disk before its commit, and whatever has no commit is removed when the
 * run is taken over again.
 */

import { appendFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AleError, isDiskFull } from "../core/errors.ts";
import type { EvaluationSummary } from "../core/events.ts";
import type { Spans } from "../core/timeline.ts";
import type { Trajectory } from "../core/types.ts";
import { VERSION } from "../core/version.ts";
import type { EnginePool } from "../device/engine-pool.ts";
import { withAliases } from "../export/metric-names.ts";
import { type EventRecorder, recordEvents } from "../store/record-events.ts";
import type { EpisodePurpose } from "../store/schema.ts";
import { openStore, type Store } from "../store/store.ts";
import type { RunOptions } from "./api.ts";
import { Checkpoints } from "./checkpoints.ts";
import { ControlMeter } from "./control-meter.ts";
import { DiskRoom } from "./disk-room.ts";
import { RunTimeline } from "./run-timeline.ts";

export interface RunDescription {
  /** `grpo`, `reinforce` or `sft`. */
  readonly algorithm: string;
  readonly steps: number;
  readonly isolation: string;
  /** Files every checkpoint carries besides the weights, e.g. the tokenizer. */
  readonly extras: ReadonlyMap<string, string>;
}

/** Where a run goes on from. */
export interface ResumePoint {
  readonly step: number;
  /** Checkpoint folder of that step. */
  readonly folder: string;
  /** Weight version of the checkpoint; older than the step where a step had nothing to learn from. */
  readonly version: number;
}

/** What a step makes permanent. */
export interface StepResult {
  readonly metrics: Readonly<Record<string, number>>;
  readonly evaluations: readonly EvaluationSummary[];
  /** Steps whose checkpoints stay. */
  readonly keep: readonly number[];
  /** Whether this step gets a checkpoint. */
  readonly checkpoint: boolean;
  /** What a resumed run needs besides the checkpoint; plain JSON. */
  readonly state?: Readonly<Record<string, unknown>>;
  /** All trajectories that were collected ahead and that no step has had yet. */
  readonly pending?: readonly Trajectory[];
  /** What each engine did since the last step. */
  readonly engines: readonly { readonly spans?: Spans }[];
}

export class RunSession implements AsyncDisposable {
  readonly runId: string;
  readonly store: Store;
  readonly checkpoints: Checkpoints;
  readonly timeline: RunTimeline;
  readonly resumedFrom: ResumePoint | undefined;
  /** What the step the run goes on from left with its commit. */
  readonly resumedState: Readonly<Record<string, unknown>>;
  /** All evaluations so far, in order. */
  readonly evaluations: EvaluationSummary[];
  readonly #options: RunOptions;
  readonly #room: DiskRoom;
  readonly #wallBefore: number;
  readonly #started = performance.now();
  readonly #metricsFile: string;
  readonly #recorder: EventRecorder;
  readonly #meter = new ControlMeter();
  /** Ids of the pending trajectories that the last commit stored. */
  #pending: ReadonlySet<string> = new Set();
  committedStep: number;
  #metricsTorn = false;
  #ended = false;

  private constructor(
    options: RunOptions,
    store: Store,
    room: DiskRoom,
    start: {
      runId: string;
      checkpoints: Checkpoints;
      resumedFrom: ResumePoint | undefined;
      evaluations: EvaluationSummary[];
      wallBefore: number;
      state: Readonly<Record<string, unknown>>;
    },
  ) {
    this.#options = options;
    this.#room = room;
    this.store = store;
    this.runId = start.runId;
    this.checkpoints = start.checkpoints;
    this.timeline = new RunTimeline(options.experiment.timeline.enabled);
    this.resumedFrom = start.resumedFrom;
    this.resumedState = start.state;
    this.evaluations = start.evaluations;
    this.#wallBefore = start.wallBefore;
    this.committedStep = start.resumedFrom?.step ?? -1;
    this.#metricsFile = join(options.outDir, "metrics.jsonl");
    this.#recorder = recordEvents(options.hub, store, start.runId);
  }

  /** Creates the run, or takes the one over that `options.resumeRunId` names. */
  static async open(options: RunOptions, description: RunDescription): Promise<RunSession> {
    mkdirSync(options.outDir, { recursive: true });
    const room = new DiskRoom(options);
    const store = await openStore(options.storePath, { whenFull: (error) => room.wait(error) });
    try {
      const checkpoints = new Checkpoints(options.outDir, description.extras);
      const session =
        options.resumeRunId === undefined
          ? await RunSession.#create(options, store, room, checkpoints, description)
          : await RunSession.#resume(options, store, room, checkpoints, options.resumeRunId);
      session.#announce(description);
      return session;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  static async #create(
    options: RunOptions,
    store: Store,
    room: DiskRoom,
    checkpoints: Checkpoints,
    description: RunDescription,
  ): Promise<RunSession> {
    const runId = await store.createRun({
      name: options.experiment.name,
      algorithm: description.algorithm,
      seed: options.experiment.seed,
      configToml: options.toml,
      configHash: options.configHash,
      outDir: options.outDir,
      isolation: description.isolation,
      steps: description.steps,
      aleVersion: VERSION,
    });
    writeFileSync(join(options.outDir, "config.toml"), options.toml);
    return new RunSession(options, store, room, {
      runId,
      checkpoints,
      resumedFrom: undefined,
      evaluations: [],
      wallBefore: 0,
      state: {},
    });
  }

  /** Goes back to the newest committed step that has a checkpoint; a run killed before its first one starts again. */
  static async #resume(
    options: RunOptions,
    store: Store,
    room: DiskRoom,
    checkpoints: Checkpoints,
    runId: string,
  ): Promise<RunSession> {
    await store.claimRun(runId);
    const committed = await store.lastCommitted(runId);
    let step = committed?.step ?? -1;
    while (step >= 0 && !checkpoints.has(step)) step--;
    if (committed !== undefined && step < 0) {
      throw new AleError("store", `${options.outDir} holds none of the checkpoints of run ${runId}`, {
        hint: "put its checkpoints folder back, or start a new run",
      });
    }
    await store.truncateAfter(runId, step);
    checkpoints.removeAfter(step);
    const version = (await store.readCheckpoints(runId)).find((checkpoint) => checkpoint.step === step)?.weightVersion;
    const last = await store.lastCommitted(runId);
    const session = new RunSession(options, store, room, {
      runId,
      checkpoints,
      resumedFrom: step < 0 ? undefined : { step, folder: checkpoints.path(step), version: version ?? step },
      evaluations: await store.readEvaluations(runId),
      wallBefore: last?.wallSeconds ?? 0,
      state: last?.state ?? {},
    });
    await session.#rewriteMetrics();
    return session;
  }

  get wallSeconds(): number {
    return this.#wallBefore + (performance.now() - this.#started) / 1000;
  }

  async writeEpisodes(step: number, purpose: EpisodePurpose, trajectories: readonly Trajectory[]): Promise<void> {
    await this.store.writeEpisodes(this.runId, step, purpose, trajectories);
    this.timeline.addEpisodes(trajectories);
  }

  /** Trajectories that waited for training at the commit the run goes on from. */
  async resumedPending(): Promise<Trajectory[]> {
    if (this.resumedFrom === undefined) return [];
    const trajectories = await this.store.readPending(this.runId, this.resumedFrom.step);
    this.#pending = new Set(trajectories.map(({ episodeId }) => episodeId));
    return trajectories;
  }

  /** Does what writes to the disk, again while it is refused for want of room. */
  whenRoom<T>(work: () => Promise<T>): Promise<T> {
    return this.#room.write(work);
  }

  /** A run that has failed says so; it does not wait for room first. */
  stopWaitingForRoom(): void {
    this.#room.close();
  }

  /** Removes what engines mapped while the run lasted, and the address of its service; both have ended. */
  removeState(): void {
    rmSync(join(this.#options.outDir, "state"), { recursive: true, force: true });
  }

  /** Saves the checkpoint when one is due, then makes the step permanent. */
  async commit(step: number, engine: EnginePool, result: StepResult): Promise<void> {
    const { evaluations } = result;
    const { timeline } = this;
    const metrics = { ...result.metrics, ...this.#meter.take() };
    const save = () =>
      timeline.time("checkpoint", step, () => this.#room.write(() => this.checkpoints.save(engine, step)));
    const path = result.checkpoint ? await save() : undefined;
    const tracks = timeline.take(result.engines.map(({ spans }) => spans));
    const commit = {
      metrics,
      weightVersion: engine.version,
      wallSeconds: this.wallSeconds,
      evaluations,
      ...(result.state === undefined ? {} : { state: result.state }),
      ...(path === undefined ? {} : { checkpoint: { path } }),
      ...(tracks.length === 0 ? {} : { timeline: { tracks, keep: this.#options.experiment.timeline.keep } }),
      ...(result.pending && { pending: { episodes: result.pending, stored: this.#pending } }),
    };
    await timeline.time("commit", step, () => this.store.commitStep(this.runId, step, commit));
    this.#room.found();
    this.#pending = new Set(result.pending?.map(({ episodeId }) => episodeId));
    this.committedStep = step;
    this.evaluations.push(...evaluations);
    await this.#room.write(() => this.#appendMetrics({ step, ...metrics }));
    if (result.checkpoint) this.checkpoints.prune(this.#options.experiment.checkpoint.keep, result.keep);
    this.#options.hub.emit({ type: "step.finished", step, metrics });
  }

  /** Ends the run in the store; later calls do nothing. */
  async end(status: "finished" | "interrupted" | "failed", reason?: string): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.#recorder.stop();
    await this.store.endRun(this.runId, status, reason);
    this.#options.hub.emit({
      type: "run.finished",
      runId: this.runId,
      status,
      ...(reason === undefined ? {} : { reason }),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#meter[Symbol.dispose]();
    await this.store.close();
  }

  #announce(description: RunDescription): void {
    this.#options.hub.emit({
      type: "run.started",
      runId: this.runId,
      name: this.#options.experiment.name,
      outDir: this.#options.outDir,
      seed: this.#options.experiment.seed,
      algorithm: description.algorithm,
      isolation: description.isolation,
      steps: description.steps,
      ...(this.resumedFrom === undefined ? {} : { resumedFrom: this.resumedFrom.step }),
    });
  }

  /** Written anew when the disk was full in the middle of a line. */
  async #appendMetrics(row: Readonly<Record<string, number>>): Promise<void> {
    try {
      if (this.#metricsTorn) await this.#rewriteMetrics();
      else appendFileSync(this.#metricsFile, `${JSON.stringify(withAliases(row))}\n`);
      this.#metricsTorn = false;
    } catch (cause) {
      this.#metricsTorn = true;
      if (!isDiskFull(cause)) throw cause;
      throw new AleError("storage_full", `no space left for ${this.#metricsFile}`, { cause });
    }
  }

  /** The file may hold lines of steps that were not committed. */
  async #rewriteMetrics(): Promise<void> {
    if (!existsSync(this.#metricsFile)) return;
    const rows = await this.store.readMetrics(this.runId);
    const lines = rows.map(({ step, metrics }) => `${JSON.stringify(withAliases({ step, ...metrics }))}\n`);
    writeFileSync(this.#metricsFile, lines.join(""));
  }
}
