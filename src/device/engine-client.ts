/**
 * The control process's side of one engine: starts it and restarts it when it dies.
 *
 * What an engine loses by dying is only what was in flight: open sequences fail with `EngineLost` and their episodes are
 * started again; an update fails with `EngineLost`, and whoever asked for it asks again (see `engine-pool.ts`).
 */

import { AleError, deadline } from "../core/errors.ts";
import type { Generation, PolicySession, SamplingOptions } from "../core/ports.ts";
import type { ScoreOptions, TeacherScores } from "../core/teacher.ts";
import type { Slot } from "../models/parameter-store.ts";
import type { ParityReport } from "../policy/generation/parity.ts";
import type { UpdateJob, UpdateResult } from "../trainer/update.ts";
import { deliver, type EngineProcess, giveWay, type Pending, post } from "./engine-process.ts";
import { EngineSession } from "./engine-session.ts";
import type { WorkTimes } from "./pool-placement.ts";
import type {
  EngineCall,
  EngineCalls,
  EngineInfo,
  EngineOptions,
  EngineStats,
  FromEngine,
  ToEngine,
} from "./protocol.ts";
import { selfCommand } from "./self.ts";
import { DEFAULT_TRAIN_SHARE } from "./work-share.ts";

/** The engine process ended while it was working for the caller; the work can be started again. */
export class EngineLost extends AleError {
  /** How the process ended. */
  readonly reason: string;

  constructor(reason: string) {
    super("engine", `the engine process ended (${reason})`, {
      hint: "the work is started again on a new engine process",
    });
    this.reason = reason;
  }
}

/** Restarts without a published version in between before the run gives up. */
const MAX_RESTARTS = 5;
/** Times an engine is started when it dies before it has its model for the first time. */
const START_ATTEMPTS = 3;
const START_DEADLINE_MS = 120_000;
const GENERATE_DEADLINE_MS = 300_000;
/** A token of a large model in a full batch on few cores takes seconds, and long answers have thousands. */
const TOKEN_DEADLINE_MS = 5_000;
const UPDATE_DEADLINE_MS = 1_800_000;
/** What a timer can hold: 24 days. */
const MAX_DEADLINE_MS = 2 ** 31 - 1;
const STOP_DEADLINE_MS = 10_000;
/** The longest micro-operation, and saving. */
const SETTLE_DEADLINE_MS = 300_000;

export class EngineClient {
  readonly #options: EngineOptions;
  readonly #onRestart: (reason: string, restarts: number) => void;
  readonly #name: string;
  #engine: Promise<EngineProcess> | undefined;
  /** The process `#engine` is, or is becoming. */
  #current: EngineProcess | undefined;
  #info: EngineInfo | undefined;
  #nextId = 1;
  #nextSequence = 1;
  #restarts = 0;
  #totalRestarts = 0;
  #started = false;
  #live = false;
  #stopping = false;

  private constructor(options: EngineOptions, onRestart: (reason: string, restarts: number) => void, name: string) {
    this.#options = options;
    this.#onRestart = onRestart;
    this.#name = name;
  }

  /**
   * Starts an engine and waits until its model is loaded. @param name says who waits, where waits are listed.
   * @throws AleError("engine") when the process ends before that, again and again.
   */
  static async start(
    options: EngineOptions,
    onRestart: (reason: string, restarts: number) => void = () => {},
    name = "engine 0",
  ): Promise<EngineClient> {
    const client = new EngineClient(options, onRestart, name);
    for (let attempt = 1; ; attempt++) {
      try {
        await client.#running();
        return client;
      } catch (error) {
        if (!(error instanceof EngineLost)) throw error;
        if (attempt === START_ATTEMPTS) throw diedAtStart(error, attempt);
        onRestart(error.reason, ++client.#totalRestarts);
      }
    }
  }

  get info(): EngineInfo {
    if (this.#info === undefined) throw new AleError("engine", "the engine has not started");
    return this.#info;
  }

  /** Process id of the running engine; for tests and `ale doctor`. */
  async pid(): Promise<number> {
    return (await this.#running()).process.pid;
  }

  async open(noiseKey: string): Promise<PolicySession> {
    const engine = await this.#retry(() => this.#running());
    const sequence = this.#nextSequence++;
    post(engine, { type: "open", sequence, noiseKey });
    return new EngineSession(this, engine, sequence);
  }

  /** Waits for a live engine process, starting it again as long as that may help. */
  async ready(): Promise<void> {
    await this.#retry(() => this.#running());
  }

  /** Whether the process is there and has its model, as far as is known. */
  get live(): boolean {
    return this.#live;
  }

  /** Restarts of the process so far. */
  get restarts(): number {
    return this.#totalRestarts;
  }

  /**
   * Computes an update, or the engine's part of one, into an unpublished slot.
   * @param members ranks of the engines that take part; all of the pool when omitted.
   * @throws EngineLost when the process ends meanwhile.
   */
  update(job: UpdateJob, attempt: number, members?: readonly number[]): Promise<UpdateResult> {
    const ms = UPDATE_DEADLINE_MS / (this.#options.trainShare ?? DEFAULT_TRAIN_SHARE);
    return this.#call("update", { job, attempt, ...(members && { members }) }, ms);
  }

  /**
   * Resolves when no micro-operation is under way that began before, with what the engine has spent its time on, or when
   * the process has ended.
   * @param written a slot of the store that others have written.
   */
  async settle(written?: Slot): Promise<WorkTimes | undefined> {
    const engine = this.#live ? this.#current : undefined;
    // A process that is being started has begun nothing, and reads the store as it is when it is asked for something.
    if (engine === undefined) return undefined;
    const settled = this.#send(engine, "settle", written === undefined ? {} : { written });
    const done = deadline('"settle" in the engine', SETTLE_DEADLINE_MS, settled, "engine", this.#name);
    return done.catch((error) => {
      if (error instanceof EngineLost) return undefined;
      throw error;
    });
  }

  /** Makes the update that is under way as `attempt`, or is about to be, fail. */
  abandon(attempt: number): void {
    if (this.#current !== undefined) post(this.#current, { type: "abandon", attempt });
  }

  /**
   * Makes a slot the published one, which may be done twice. The slot outlives the engine, so a new process can publish what
   * the one that died had computed.
   */
  async publish(slot: Slot, version: number): Promise<void> {
    await this.#retry(() => this.#call("publish", { slot, version }, START_DEADLINE_MS));
    this.#restarts = 0;
  }

  /** The work goes forward: restarts so far do not count against `MAX_RESTARTS`. */
  forgiveRestarts(): void {
    this.#restarts = 0;
  }

  /** Writes weights, optimizer state and config to a folder that must not exist yet. */
  async save(folder: string): Promise<void> {
    await this.#retry(() => this.#call("save", { folder }, START_DEADLINE_MS));
  }

  /** max |Δ log p| between generation graphs and training graph on these sequences. */
  probeParity(sequences: readonly Int32Array[], expected?: readonly Float32Array[]): Promise<ParityReport> {
    const request = { sequences, ...(expected && { expected }) };
    return this.#retry(() => this.#call("probeParity", request, UPDATE_DEADLINE_MS));
  }

  /** Training's side of `probeParity` for another engine, its `expected`. */
  probedLogprobs(sequences: readonly Int32Array[]): Promise<readonly Float32Array[]> {
    return this.#retry(() => this.#call("probedLogprobs", { sequences }, UPDATE_DEADLINE_MS));
  }

  /** What an engine that scores says; asked again when the process ends meanwhile. */
  score(sequences: readonly Int32Array[], options: ScoreOptions): Promise<TeacherScores> {
    return this.#retry(() => this.#call("score", { sequences, options }, UPDATE_DEADLINE_MS));
  }

  /** What the engine did since it was last asked, or since it was started again. */
  stats(): Promise<EngineStats> {
    return this.#retry(() => this.#call("stats", {}, START_DEADLINE_MS));
  }

  async stop(): Promise<void> {
    if (this.#engine === undefined || this.#stopping) return;
    this.#stopping = true;
    const engine = await this.#engine.catch(() => undefined);
    if (engine === undefined) return;
    const done = this.#send(engine, "stop", {}).catch(() => undefined);
    await Promise.race([done, Bun.sleep(STOP_DEADLINE_MS)]);
    engine.process.kill("SIGKILL");
    await engine.process.exited;
  }

  async #retry<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof EngineLost)) throw error;
      }
    }
  }

  async #call<K extends EngineCall>(
    type: K,
    body: EngineCalls[K]["request"],
    ms: number,
  ): Promise<EngineCalls[K]["reply"]> {
    const engine = await this.#running();
    return deadline(`"${type}" in the engine`, ms, this.#send(engine, type, body), "engine", this.#name);
  }

  /** The live engine process, started again if the last one ended. */
  #running(): Promise<EngineProcess> {
    if (this.#stopping) throw new AleError("engine", "the engine is stopping");
    if (this.#engine === undefined) {
      const engine = this.#launch();
      this.#engine = engine;
      engine.catch(() => {
        if (this.#engine === engine) this.#engine = undefined;
      });
    }
    return this.#engine;
  }

  async #launch(): Promise<EngineProcess> {
    if (this.#restarts > MAX_RESTARTS) {
      throw new AleError("engine", `the engine process ended ${this.#restarts} times in a row`, {
        hint: "look at the messages above and run `ale doctor`",
      });
    }
    const pending = new Map<number, Pending>();
    const child = Bun.spawn({
      cmd: selfCommand("engine", []),
      env: { ...process.env, OMP_NUM_THREADS: "1" },
      stdio: ["ignore", "ignore", "inherit"],
      serialization: "advanced",
      ipc: (message: FromEngine) => deliver(pending, message),
    });
    giveWay(child.pid);
    const engine: EngineProcess = { process: child, pending };
    this.#current = engine;
    void child.exited.then(() => this.#lost(engine));
    const options: EngineOptions = this.#started ? { ...this.#options, weights: { kind: "reopen" } } : this.#options;
    const start = this.#send(engine, "start", options);
    this.#info = await deadline("starting the engine", START_DEADLINE_MS, start, "engine", this.#name).catch(
      (error) => {
        child.kill("SIGKILL");
        throw error;
      },
    );
    this.#started = true;
    this.#live = true;
    return engine;
  }

  #lost(engine: EngineProcess): void {
    const { exitCode, signalCode } = engine.process;
    const reason = signalCode === null ? `exit code ${exitCode}` : `signal ${signalCode}`;
    for (const { reject } of engine.pending.values()) reject(new EngineLost(reason));
    engine.pending.clear();
    if (this.#stopping) return;
    const wasLive = this.#current === engine && this.#live;
    if (this.#current === engine) {
      this.#engine = undefined;
      this.#live = false;
    }
    this.#restarts++;
    if (this.#started) this.#onRestart(reason, ++this.#totalRestarts);
    // At once, so that it takes part again soon; whoever needs it hears if that fails.
    if (wasLive) this.#running().catch(() => {});
  }

  /** Sends a request to one engine process and waits for its reply. */
  #send<K extends EngineCall>(
    engine: EngineProcess,
    type: K,
    body: EngineCalls[K]["request"],
    onToken?: (id: number, logprob: number) => void,
  ): Promise<EngineCalls[K]["reply"]> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (engine.process.exitCode !== null || engine.process.signalCode !== null) {
        reject(new EngineLost("before the request was sent"));
        return;
      }
      const listener = onToken === undefined ? {} : { onToken };
      engine.pending.set(id, { resolve: (reply) => resolve(reply as EngineCalls[K]["reply"]), reject, ...listener });
      post(engine, { type, id, body } as ToEngine);
    });
  }

  /** Used by sessions only. */
  generate(
    engine: EngineProcess,
    sequence: number,
    context: Int32Array,
    sampling: SamplingOptions,
    onToken: ((id: number, logprob: number) => void) | undefined,
  ): Promise<Generation> {
    const stream = onToken !== undefined;
    const reply = this.#send(engine, "generate", { sequence, context, sampling, stream }, onToken);
    const ms = Math.min(GENERATE_DEADLINE_MS + sampling.maxTokens * TOKEN_DEADLINE_MS, MAX_DEADLINE_MS);
    return deadline("generating an answer in the engine", ms, reply, "engine", `sequence ${sequence} of ${this.#name}`);
  }
}

function diedAtStart({ reason }: EngineLost, times: number): AleError {
  return new AleError("engine", `the engine process ended ${times} times while it was starting, last with ${reason}`, {
    hint: "look at the messages above and run `ale doctor`",
  });
}
