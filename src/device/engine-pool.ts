/**
 * The engines of a run as one: the `Policy` that episodes talk to, and the trainer. There is one engine process per entry
 * of `engine.devices`; all of them generate, and all take part in every update.
 *
 * The engines share one parameter store. An update is written to a slot nobody reads and becomes current with one write
 * when every engine has done its part; if an engine dies before, the update is begun again as a new attempt, after all
 * others have let go of the last one. So an update happens exactly once, and from whole gradients.
 */

import { rmSync } from "node:fs";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import type { Policy, PolicySession } from "../core/ports.ts";
import { mergeReports, type ParityReport } from "../policy/generation/parity.ts";
import type { UpdateJob, UpdateResult } from "../trainer/update.ts";
import { EngineClient, EngineLost } from "./engine-client.ts";
import { Placement } from "./placement.ts";
import type { EngineInfo, EngineOptions, EngineStats } from "./protocol.ts";

export interface PoolOptions {
  /** What all engines have in common. */
  readonly engine: Omit<EngineOptions, "storeFile" | "pool" | "sequences" | "device">;
  /** One entry per engine. */
  readonly devices: readonly string[];
  /** Folder of the files that the engines map. */
  readonly folder: string;
  /** Sequences that may be open at once, on all engines together. */
  readonly sequences: number;
}

/** An engine that was started again. */
export interface EngineRestart {
  /** `cpu`, or `1 (cpu)` where there are several. */
  readonly device: string;
  readonly reason: string;
  /** Of all engines so far. */
  readonly restarts: number;
}

export interface PoolStats extends EngineStats {
  /** Of this engine so far. */
  readonly restarts: number;
}

export class EnginePool implements Policy {
  readonly #engines: readonly EngineClient[];
  readonly #placement: Placement;
  #version: number;
  #attempts = 0;

  private constructor(engines: readonly EngineClient[], capacity: number) {
    this.#engines = engines;
    this.#version = this.info.version;
    this.#placement = new Placement(engines.length, capacity);
  }

  /** Starts the engines and waits until their models are loaded; the first one makes the parameter store. */
  static async start(
    options: PoolOptions,
    onRestart: (restart: EngineRestart) => void = () => {},
  ): Promise<EnginePool> {
    const { devices, folder, engine } = options;
    const size = devices.length;
    const exchangeFile = join(folder, "exchange.bin");
    rmSync(exchangeFile, { force: true });
    const capacity = Placement.capacity(options.sequences, size);
    let restarts = 0;
    const start = (rank: number) => {
      const name = size === 1 ? (devices[0] as string) : `${rank} (${devices[rank]})`;
      const own: EngineOptions = {
        ...engine,
        device: devices[rank] as string,
        storeFile: join(folder, "parameters.bin"),
        sequences: capacity,
        ...(rank === 0 ? {} : { weights: { kind: "reopen" } }),
        ...(size === 1 ? {} : { pool: { rank, size, exchangeFile } }),
      };
      return EngineClient.start(own, (reason) => onRestart({ device: name, reason, restarts: ++restarts }));
    };
    const engines = [await start(0)];
    const others = await Promise.allSettled(devices.slice(1).map((_, i) => start(i + 1)));
    const failed = others.find((result) => result.status === "rejected");
    engines.push(...others.flatMap((result) => (result.status === "fulfilled" ? [result.value] : [])));
    if (failed !== undefined) {
      await Promise.all(engines.map((client) => client.stop()));
      throw failed.reason;
    }
    return new EnginePool(engines, capacity);
  }

  get size(): number {
    return this.#engines.length;
  }

  get info(): EngineInfo {
    return this.#first.info;
  }

  /** What each engine said when it started. */
  get infos(): readonly EngineInfo[] {
    return this.#engines.map(({ info }) => info);
  }

  get version(): number {
    return this.#version;
  }

  /** Process ids of the engines; for tests and `ale doctor`. */
  pids(): Promise<number[]> {
    return Promise.all(this.#engines.map((engine) => engine.pid()));
  }

  /** The sequence gets its engine with its first context: equal beginnings go to one engine, which computes them once. */
  async open(noiseKey: string): Promise<PolicySession> {
    return new PlacedSession((context) => this.#place(noiseKey, context));
  }

  /** Runs an update on all engines and publishes its weights as `version`; exactly once, whichever engine dies meanwhile. */
  async update(job: UpdateJob, version: number): Promise<UpdateResult> {
    let result: UpdateResult | undefined;
    while (result === undefined) {
      await Promise.all(this.#engines.map((engine) => engine.ready()));
      result = await this.#attempt(job, ++this.#attempts);
    }
    await this.#first.publish(result.slot, version);
    for (const engine of this.#engines) engine.forgiveRestarts();
    this.#version = version;
    return result;
  }

  /** Writes weights, optimizer state and config to a folder that must not exist yet. */
  async save(folder: string): Promise<void> {
    await this.#first.save(folder);
  }

  /** Generation graphs against training graph; each engine probes some of the sequences. */
  async probeParity(sequences: readonly Int32Array[]): Promise<ParityReport> {
    const { size } = this;
    const probes = this.#engines.flatMap((engine, rank) => {
      const share = sequences.filter((_, i) => i % size === rank);
      return share.length === 0 ? [] : [engine.probeParity(share)];
    });
    return mergeReports(await Promise.all(probes));
  }

  /** What each engine did since the last call. */
  stats(): Promise<PoolStats[]> {
    return Promise.all(this.#engines.map(async (engine) => ({ ...(await engine.stats()), restarts: engine.restarts })));
  }

  async stop(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.stop()));
  }

  get #first(): EngineClient {
    return this.#engines[0] as EngineClient;
  }

  /**
   * One attempt at an update; `undefined` when an engine died. Ends only when no engine works on it any more.
   * @throws what the first engine to fail said.
   */
  async #attempt(job: UpdateJob, attempt: number): Promise<UpdateResult | undefined> {
    let cause: unknown;
    const parts = this.#engines.map((engine) =>
      engine.update(job, attempt).catch((error: unknown) => {
        cause ??= error;
        for (const other of this.#engines) other.abandon(attempt);
        return undefined;
      }),
    );
    const [result] = await Promise.all(parts);
    if (cause === undefined) return result;
    if (cause instanceof EngineLost) return undefined;
    throw cause;
  }

  async #place(noiseKey: string, context: Int32Array): Promise<PolicySession> {
    const place = this.#placement.take(context, (rank) => this.#engine(rank).live);
    try {
      const session = await this.#engine(place.rank).open(noiseKey);
      return new ReleasingSession(session, () => place.release());
    } catch (error) {
      place.release();
      throw error;
    }
  }

  #engine(rank: number): EngineClient {
    return this.#engines[rank] as EngineClient;
  }
}

type Generate = PolicySession["generate"];

/** A session that is opened when its first context is known. */
class PlacedSession implements PolicySession {
  readonly #open: (context: Int32Array) => Promise<PolicySession>;
  #session: Promise<PolicySession> | undefined;
  #closed = false;

  constructor(open: (context: Int32Array) => Promise<PolicySession>) {
    this.#open = open;
  }

  async generate(...args: Parameters<Generate>): ReturnType<Generate> {
    if (this.#closed) throw new AleError("engine", "the sequence is closed");
    this.#session ??= this.#open(args[0]);
    return (await this.#session).generate(...args);
  }

  async close(): Promise<void> {
    this.#closed = true;
    // One that could not be opened has said so where it was asked for an answer.
    await this.#session?.then(
      (session) => session.close(),
      () => {},
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A session that gives its place on an engine back when it is closed. */
class ReleasingSession implements PolicySession {
  readonly #session: PolicySession;
  readonly #release: () => void;

  constructor(session: PolicySession, release: () => void) {
    this.#session = session;
    this.#release = release;
  }

  generate(...args: Parameters<Generate>): ReturnType<Generate> {
    return this.#session.generate(...args);
  }

  async close(): Promise<void> {
    await this.#session.close();
    this.#release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
