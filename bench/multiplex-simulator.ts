/**
 * Engines as costs of their micro-operations, in simulated time: the queues, the shares and the placements are the
 * product's own (`src/device`), only what a micro-operation takes is a number.
 */

import { Placement } from "../src/device/placement.ts";
import { assignWork, ElasticPlacement, type PoolPlacement } from "../src/device/pool-placement.ts";
import { WorkShare } from "../src/device/work-share.ts";
import type { Workload, World, WorldSession } from "./multiplex-workload.ts";
import { contextLength } from "./multiplex-workload.ts";

export interface Costs {
  /** A decode step: fixed, and per row. */
  readonly stepMs: number;
  readonly rowMs: number;
  /** A context: fixed, and per token. */
  readonly prefillMs: number;
  readonly prefillTokenMs: number;
  /** A micro-batch, and how many an update has, all engines together. */
  readonly microBatchMs: number;
  readonly microBatches: number;
  /** AdamW and sums on one engine. */
  readonly optimizerMs: number;
}

export interface SimulatedPool {
  readonly engines: number;
  readonly placement: PoolPlacement;
  readonly trainShare: number;
  readonly slots: number;
}

interface Request {
  readonly context: number;
  left: number;
  readonly onAnswer: () => void;
}

class Engine {
  readonly waiting: Request[] = [];
  readonly ready: Request[] = [];
  /** Micro-operations of training that can be done now, in ms. */
  training: { readonly ms: number; readonly onDone: () => void }[] = [];
  readonly share: WorkShare;
  busy = false;
  trainMs = 0;
  generateMs = 0;

  constructor(trainShare: number) {
    this.share = new WorkShare(trainShare);
  }
}

export class SimulatedWorld implements World {
  readonly #pool: SimulatedPool;
  readonly #costs: Costs;
  readonly #load: Workload;
  readonly #engines: readonly Engine[];
  readonly #trainers: readonly number[];
  readonly #generators: readonly number[];
  readonly #placement: Placement;
  readonly #elastic: ElasticPlacement | undefined;
  readonly #events: { readonly at: number; readonly run: () => void }[] = [];
  #members: readonly number[] = [];
  #time = 0;
  #opened = 0;

  constructor(pool: SimulatedPool, costs: Costs, load: Workload) {
    this.#pool = pool;
    this.#costs = costs;
    this.#load = load;
    const work = assignWork(pool.placement, pool.engines);
    const ranks = [...work.keys()];
    this.#trainers = ranks.filter((rank) => work[rank] !== "generate");
    this.#generators = ranks.filter((rank) => work[rank] !== "train");
    this.#engines = ranks.map(() => new Engine(pool.trainShare));
    this.#placement = new Placement(this.#generators.length, Number.POSITIVE_INFINITY);
    if (pool.placement.kind === "elastic") this.#elastic = new ElasticPlacement(pool.engines);
  }

  now(): number {
    return this.#time;
  }

  after(ms: number, run: () => void): void {
    const event = { at: this.#time + ms, run };
    let [low, high] = [0, this.#events.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#events[middle] as typeof event).at > event.at) low = middle + 1;
      else high = middle;
    }
    // The next one is the last.
    this.#events.splice(low, 0, event);
  }

  /** Lets everything happen that is going to. */
  run(): void {
    for (let event = this.#events.pop(); event !== undefined; event = this.#events.pop()) {
      this.#time = event.at;
      event.run();
    }
  }

  /** Share of the time in which the engines had nothing to do. */
  get idle(): number {
    const busy = this.#engines.reduce((sum, { trainMs, generateMs }) => sum + trainMs + generateMs, 0);
    return 1 - busy / (this.#time * this.#engines.length);
  }

  open(): WorldSession {
    const id = Int32Array.of(this.#opened++);
    const slowness = (i: number) =>
      this.#members.includes(this.#generators[i] as number) ? (this.#elastic?.slowness ?? 1) : 1;
    const place = this.#placement.take(id, () => true, slowness);
    const engine = this.#engines[this.#generators[place.rank] as number] as Engine;
    return {
      answer: (turn, then) => {
        const context = contextLength(this.#load, turn);
        engine.waiting.push({ context, left: this.#load.answer, onAnswer: then });
        this.#work(engine);
      },
      close: () => place.release(),
    };
  }

  update(_version: number, then: () => void): void {
    const open = (rank: number) => this.#placement.openOn(this.#generators.indexOf(rank));
    const total = this.#generators.reduce((sum, _, i) => sum + this.#placement.openOn(i), 0);
    const times = this.#engines.map(({ trainMs, generateMs }, rank) => [rank, { trainMs, generateMs }] as const);
    const count = this.#elastic?.decide(total, new Map(times)) ?? this.#trainers.length;
    const chosen = this.#trainers.toSorted((a, b) => (count < this.#trainers.length ? open(a) - open(b) : a - b));
    this.#members = chosen.slice(0, count);
    const { microBatchMs, microBatches, optimizerMs } = this.#costs;
    const each = new Array<number>(Math.ceil(microBatches / count)).fill(microBatchMs);
    // They meet once their gradients are there, and once their weights are.
    this.#together(each, () => this.#together([optimizerMs / count], then));
  }

  /** Gives the members these micro-operations; `then` when the last of them is done. */
  #together(operations: readonly number[], then: () => void): void {
    let left = this.#members.length * operations.length;
    const onDone = () => {
      if (--left === 0) then();
    };
    for (const rank of this.#members) {
      const engine = this.#engines[rank] as Engine;
      engine.training.push(...operations.map((ms) => ({ ms, onDone })));
      this.#work(engine);
    }
  }

  /** One micro-operation after the other as long as there is something to do. */
  #work(engine: Engine): void {
    if (engine.busy) return;
    const generate = engine.waiting.length + engine.ready.length > 0;
    const work = engine.share.next({ generate, train: engine.training.length > 0 });
    if (work === undefined) return;
    const { ms, onDone } =
      work === "train" ? (engine.training.shift() as Engine["training"][0]) : this.#generate(engine);
    engine.busy = true;
    if (work === "train") engine.trainMs += ms;
    else engine.generateMs += ms;
    this.after(ms, () => {
      engine.busy = false;
      engine.share.spent(work, ms);
      onDone();
      this.#work(engine);
    });
  }

  #generate({ waiting, ready }: Engine): { readonly ms: number; readonly onDone: () => void } {
    const { stepMs, rowMs, prefillMs, prefillTokenMs } = this.#costs;
    const next = waiting.shift();
    if (next !== undefined) {
      return { ms: prefillMs + prefillTokenMs * next.context, onDone: () => void ready.push(next) };
    }
    const seated = ready.slice(0, this.#pool.slots);
    const onDone = () => {
      for (const request of seated) {
        if (--request.left > 0) continue;
        ready.splice(ready.indexOf(request), 1);
        request.onAnswer();
      }
    };
    return { ms: stepMs + rowMs * seated.length, onDone };
  }
}
