/**
 * The engines of a run as one: the `Policy` that episodes talk to, and the trainer. There is one engine process per entry
 * of `engine.devices`; which of them generate and which take part in an update is the pool's placement.
 *
 * The engines share one parameter store. An update is written to a slot nobody reads and becomes current with one write
 * when every member has done its part; if a member dies before, the update is begun again as a new attempt, after all
 * others have let go of the last one. So an update happens exactly once, and from whole gradients. Generation goes on
 * meanwhile, on members between their micro-operations.
 */

import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Policy, PolicySession } from "../core/ports.ts";
import { mergeReports, type ParityReport } from "../policy/generation/parity.ts";
import type { UpdateJob, UpdateResult } from "../trainer/update.ts";
import { EngineClient, EngineLost } from "./engine-client.ts";
import { Placement } from "./placement.ts";
import { assignWork, ElasticPlacement, type PoolPlacement, type WorkTimes } from "./pool-placement.ts";
import { PlacedSession, ReleasingSession } from "./pool-sessions.ts";
import type { EngineInfo, EngineOptions, EngineStats } from "./protocol.ts";

const EXCHANGE_FILE = "exchange.bin";

export interface PoolOptions {
  /** What all engines have in common. */
  readonly engine: Omit<EngineOptions, "storeFile" | "pool" | "work" | "sequences" | "device">;
  /** One entry per engine. */
  readonly devices: readonly string[];
  /** Folder of the files that the engines map. */
  readonly folder: string;
  /** Sequences that may be open at once, on all engines together. */
  readonly sequences: number;
  /** Who trains and who generates. Default `shared`. */
  readonly placement?: PoolPlacement;
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
  /** Ranks of the engines that may train, and of those that generate. */
  readonly #trainers: readonly number[];
  readonly #generators: readonly number[];
  /** Of sequences on generators. */
  readonly #placement: Placement;
  /** Decides who trains; none where that is fixed. */
  readonly #elastic: ElasticPlacement | undefined;
  /** Ranks of the engines that make the update under way, or made the latest one. */
  #members: readonly number[] = [];
  /** Updates and probes, one after the other: a probe compares under weights that must not change meanwhile. */
  #last: Promise<unknown> = Promise.resolve();
  #version: number;
  #attempts = 0;

  private constructor(engines: readonly EngineClient[], options: PoolOptions) {
    this.#engines = engines;
    const work = poolWork(options);
    const ranks = [...work.keys()];
    this.#trainers = ranks.filter((rank) => work[rank] !== "generate");
    this.#generators = ranks.filter((rank) => work[rank] !== "train");
    if (options.placement?.kind === "elastic") this.#elastic = new ElasticPlacement(engines.length);
    this.#version = this.info.version;
    this.#placement = new Placement(this.#generators.length, sequencesPerEngine(options), options.engine.slots);
  }

  /**
   * Starts the engines and waits until their models are loaded; the first one makes the parameter store.
   * @throws AleError("config") for a placement that the devices do not allow.
   */
  static async start(
    options: PoolOptions,
    onRestart: (restart: EngineRestart) => void = () => {},
  ): Promise<EnginePool> {
    const { devices, folder } = options;
    const size = devices.length;
    rmSync(join(folder, EXCHANGE_FILE), { force: true });
    const own = engineOptions(options);
    let restarts = 0;
    const start = (rank: number) => {
      const name = size === 1 ? (devices[0] as string) : `${rank} (${devices[rank]})`;
      const told = (reason: string) => onRestart({ device: name, reason, restarts: ++restarts });
      return EngineClient.start(own[rank] as EngineOptions, told, `engine ${rank}`);
    };
    const engines = [await start(0)];
    const others = await Promise.allSettled(devices.slice(1).map((_, i) => start(i + 1)));
    const failed = others.find((result) => result.status === "rejected");
    engines.push(...others.flatMap((result) => (result.status === "fulfilled" ? [result.value] : [])));
    if (failed !== undefined) {
      await Promise.all(engines.map((client) => client.stop()));
      throw failed.reason;
    }
    return new EnginePool(engines, options);
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

  /** Runs an update and publishes its weights as `version`; exactly once, whichever engine dies meanwhile. */
  update(job: UpdateJob, version: number): Promise<UpdateResult> {
    return this.#afterLast(() => this.#update(job, version));
  }

  /** Writes weights, optimizer state and config to a folder that must not exist yet. */
  async save(folder: string): Promise<void> {
    await this.#first.save(folder);
  }

  /** Generation graphs against training graph; each engine that generates probes some of the sequences. */
  probeParity(sequences: readonly Int32Array[]): Promise<ParityReport> {
    return this.#afterLast(async () => {
      const generators = this.#generators;
      const probes = generators.flatMap((rank, i) => {
        const share = sequences.filter((_, k) => k % generators.length === i);
        return share.length === 0 ? [] : [this.#probe(rank, share)];
      });
      return mergeReports(await Promise.all(probes));
    });
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

  #afterLast<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }

  async #update(job: UpdateJob, version: number): Promise<UpdateResult> {
    let result: UpdateResult | undefined;
    const wanted = await this.#wantedTrainers();
    while (result === undefined) {
      this.#members = this.#choose(wanted);
      await Promise.all(this.#members.map((rank) => this.#engine(rank).ready()));
      // The attempt overwrites slots that others may still be reading, if they were published a moment ago.
      await this.#settleOthers();
      result = await this.#attempt(job, ++this.#attempts);
    }
    const trained = performance.now();
    await this.#settleOthers(result.slot);
    await this.#engine(this.#members[0] as number).publish(result.slot, version);
    const metrics = { ...result.metrics, "timing_s/param_sync": (performance.now() - trained) / 1000 };
    for (const engine of this.#engines) engine.forgiveRestarts();
    this.#version = version;
    return { ...result, metrics };
  }

  /** How many engines make an update. */
  async #wantedTrainers(): Promise<number> {
    if (this.#elastic === undefined) return this.#trainers.length;
    const times = new Map<number, WorkTimes>();
    const ask = async (engine: EngineClient, rank: number) => {
      const own = await engine.settle();
      if (own !== undefined) times.set(rank, own);
    };
    await Promise.all(this.#engines.map(ask));
    const open = this.#generators.reduce((sum, _, i) => sum + this.#placement.openOn(i), 0);
    return this.#elastic.decide(open, times);
  }

  /** The `count` trainers with the fewest sequences, in the order of their ranks; rather those that are there. */
  #choose(count: number): readonly number[] {
    if (count === this.#trainers.length) return this.#trainers;
    const missing = (rank: number) => (this.#engine(rank).live ? 0 : 1);
    const open = (rank: number) => this.#placement.openOn(this.#generators.indexOf(rank));
    const byLoad = this.#trainers.toSorted((a, b) => missing(a) - missing(b) || open(a) - open(b) || a - b);
    return byLoad.slice(0, count).sort((a, b) => a - b);
  }

  /** Engines that take no part have no micro-operation under way that began before, and know what was written. */
  async #settleOthers(written?: UpdateResult["slot"]): Promise<void> {
    const others = this.#engines.filter((_, rank) => !this.#members.includes(rank));
    await Promise.all(others.map((engine) => engine.settle(written)));
  }

  /**
   * One attempt of the members at an update; `undefined` when one died. Ends only when no engine works on it any more.
   * @throws what the first engine to fail said.
   */
  async #attempt(job: UpdateJob, attempt: number): Promise<UpdateResult | undefined> {
    let cause: unknown;
    const members = this.#members.map((rank) => this.#engine(rank));
    const parts = members.map((engine) =>
      engine.update(job, attempt, this.#members).catch((error: unknown) => {
        cause ??= error;
        for (const other of members) other.abandon(attempt);
        return undefined;
      }),
    );
    const [result] = await Promise.all(parts);
    if (cause === undefined) return result;
    if (cause instanceof EngineLost) return undefined;
    throw cause;
  }

  /** The probe of one engine; one that does not train is told what training says. */
  async #probe(rank: number, sequences: readonly Int32Array[]): Promise<ParityReport> {
    if (this.#trainers.includes(rank)) return this.#engine(rank).probeParity(sequences);
    const trainer = this.#trainers[rank % this.#trainers.length] as number;
    return this.#engine(rank).probeParity(sequences, await this.#engine(trainer).probedLogprobs(sequences));
  }

  async #place(noiseKey: string, context: Int32Array): Promise<PolicySession> {
    const rankOf = (index: number) => this.#generators[index] as number;
    const { slowness: whileTraining = 1 } = this.#elastic ?? {};
    const slowness = (index: number) => (this.#members.includes(rankOf(index)) ? whileTraining : 1);
    const place = this.#placement.take(context, (index) => this.#engine(rankOf(index)).live, slowness);
    try {
      const session = await this.#engine(rankOf(place.rank)).open(noiseKey);
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

/** What each engine is for; in a pool that trains nothing they generate. */
function poolWork({ devices, engine, placement = { kind: "shared" } }: PoolOptions) {
  return assignWork(engine.frozen === undefined ? placement : { kind: "shared" }, devices.length);
}

/** Sequences that a generating engine may have open. With `elastic` those that train may leave all to the others. */
function sequencesPerEngine(options: PoolOptions): number {
  const { sequences, placement } = options;
  if (placement?.kind === "elastic") return sequences;
  return Placement.capacity(sequences, poolWork(options).filter((work) => work !== "train").length);
}

/** The options of each engine. @throws AleError("config") for a placement that the devices do not allow. */
export function engineOptions(options: PoolOptions): EngineOptions[] {
  const { devices, folder, engine } = options;
  const work = poolWork(options);
  const trainers = work.filter((each) => each !== "generate").length;
  // Divergence is measured where training is.
  const { reference: _, ...generator } = engine;
  return devices.map((device, rank) => ({
    ...(work[rank] === "generate" ? generator : engine),
    device,
    work: work[rank] ?? "both",
    storeFile: join(folder, "parameters.bin"),
    sequences: sequencesPerEngine(options),
    ...(rank === 0 ? {} : { weights: { kind: "reopen" } }),
    // Those that train have the first ranks.
    ...(trainers === 1 || work[rank] === "generate"
      ? {}
      : { pool: { rank, size: trainers, exchangeFile: join(folder, EXCHANGE_FILE) } }),
  }));
}
