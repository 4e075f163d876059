/**
 * What happened when. A *span* is a named stretch of time; spans of one place (an engine, the control process, all episodes
 * of a step) make a *track*. Times are milliseconds since 1970 with fractions, from each process's monotonic clock.
 */

/** Now, as spans count time. */
export function clockTime(): number {
  return performance.timeOrigin + performance.now();
}

/** Spans by column; element i of each is about span i. In the order in which they ended. */
export interface Spans {
  /** What `kinds` index. */
  readonly names: readonly string[];
  readonly kinds: Uint8Array;
  readonly begins: Float64Array;
  /** Milliseconds. */
  readonly durations: Float64Array;
  /** Engines: tokens. Episodes: index of the episode in `Track.rows`. */
  readonly amounts: Int32Array;
  /** Older spans that found no room. */
  readonly dropped: number;
}

export interface Track {
  /** `control`, `episodes`, `engine/<i>`. */
  readonly name: string;
  /** Ids of the episodes. */
  readonly rows?: readonly string[];
  readonly spans: Spans;
}

/** One span of a track. */
export interface Span {
  readonly name: string;
  readonly begin: number;
  readonly end: number;
  readonly amount: number;
}

export function* eachSpan({ names, kinds, begins, durations, amounts }: Spans): Generator<Span> {
  for (let i = 0; i < kinds.length; i++) {
    const begin = begins[i] as number;
    const name = names[kinds[i] as number] ?? "unknown";
    yield { name, begin, end: begin + (durations[i] as number), amount: amounts[i] as number };
  }
}

/** Micro-operations of an engine, and the calls that consist of several or do something else: `probe` and `update`. */
export const ENGINE_SPANS = [
  "prefill",
  "decode",
  "forward",
  "backward",
  "optimizer",
  "exchange",
  "update",
  "publish",
  "save",
  "probe",
] as const;
export type EngineSpan = (typeof ENGINE_SPANS)[number];

/** Tells of a micro-operation that just ended; `began` is `performance.now()` of its beginning. */
export type RecordSpan = (name: EngineSpan, began: number, tokens?: number) => void;

const FIRST_CAPACITY = 1 << 10;
const CAPACITY = 1 << 17;

/** Collects spans between two calls of `take`, at most 131 072: then the oldest make room. */
export class SpanRecorder<Name extends string> {
  readonly #names: readonly Name[];
  readonly #index: ReadonlyMap<Name, number>;
  readonly #capacity: number;
  #kinds = new Uint8Array(FIRST_CAPACITY);
  #begins = new Float64Array(FIRST_CAPACITY);
  #durations = new Float64Array(FIRST_CAPACITY);
  #amounts = new Int32Array(FIRST_CAPACITY);
  #count = 0;

  constructor(names: readonly Name[], capacity = CAPACITY) {
    this.#names = names;
    this.#index = new Map(names.map((name, i) => [name, i]));
    this.#capacity = capacity;
  }

  /** `begin` and `end` in milliseconds since 1970. */
  add(name: Name, begin: number, end: number, amount = 0): void {
    if (this.#count === this.#kinds.length && this.#count < this.#capacity) this.#grow();
    const at = this.#count % Math.min(this.#kinds.length, this.#capacity);
    this.#kinds[at] = this.#index.get(name) ?? 0;
    this.#begins[at] = begin;
    this.#durations[at] = end - begin;
    this.#amounts[at] = amount;
    this.#count++;
  }

  /** Everything since the last call, oldest first. */
  take(): Spans {
    const count = Math.min(this.#count, this.#capacity);
    const dropped = this.#count - count;
    const first = dropped === 0 ? 0 : this.#count % count;
    const unroll = <T extends Uint8Array | Float64Array | Int32Array>(ring: T): T => {
      const column = ring.slice(0, count) as T;
      column.set(ring.subarray(first, count));
      column.set(ring.subarray(0, first), count - first);
      return column;
    };
    this.#count = 0;
    return {
      names: this.#names,
      kinds: unroll(this.#kinds),
      begins: unroll(this.#begins),
      durations: unroll(this.#durations),
      amounts: unroll(this.#amounts),
      dropped,
    };
  }

  #grow(): void {
    const length = Math.min(2 * this.#kinds.length, this.#capacity);
    const grown = <T extends Uint8Array | Float64Array | Int32Array>(larger: T, ring: T): T => {
      larger.set(ring);
      return larger;
    };
    this.#kinds = grown(new Uint8Array(length), this.#kinds);
    this.#begins = grown(new Float64Array(length), this.#begins);
    this.#durations = grown(new Float64Array(length), this.#durations);
    this.#amounts = grown(new Int32Array(length), this.#amounts);
  }
}

/** Milliseconds in which at least one of the spans was under way. */
export function busyMs(spans: Iterable<Span>): number {
  const sorted = [...spans].sort((a, b) => a.begin - b.begin);
  let busy = 0;
  let until = Number.NEGATIVE_INFINITY;
  for (const { begin, end } of sorted) {
    busy += Math.max(0, end - Math.max(begin, until));
    until = Math.max(until, end);
  }
  return busy;
}
