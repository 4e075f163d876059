/**
 * A run's timeline in the Trace Event Format, which https://ui.perfetto.dev and chrome://tracing open
 * (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU). Control and every engine are a process
 * each; episodes share one, in which an episode keeps a row to itself while it lasts.
 */

import { AleError } from "../core/errors.ts";
import { eachSpan, type Span, type Track } from "../core/timeline.ts";
import type { Store } from "../store/store.ts";
import { LineWriter, writeAtomically } from "./files.ts";

/** Times in microseconds since the trace's beginning. */
export interface TraceEvent {
  readonly name: string;
  readonly ph: "X" | "M";
  readonly pid: number;
  readonly tid: number;
  readonly ts?: number;
  readonly dur?: number;
  readonly cat?: string;
  readonly args: Readonly<Record<string, string | number>>;
}

const CONTROL = 1;
const EPISODES = 2;
const FIRST_ENGINE = 10;

interface Begun extends TraceEvent {
  readonly ts: number;
  readonly dur: number;
}

/** Turns the steps of one run into events, one step after the other. */
export class TraceBuilder {
  #origin: number | undefined;
  /** Names of processes and rows that were told already. */
  readonly #named = new Set<string>();
  /** Per row of episodes, when its last one ended. */
  readonly #rows: number[] = [];

  /** Events of a step: names first, then spans in the order in which they began, the longer ones before those inside. */
  step(tracks: readonly Track[]): TraceEvent[] {
    this.#origin ??= Math.min(...tracks.flatMap(({ spans }) => [...eachSpan(spans)].map(({ begin }) => begin)));
    const names: TraceEvent[] = [];
    const spans = tracks.flatMap((track) => this.#track(track, names));
    spans.sort((a, b) => a.ts - b.ts || b.dur - a.dur);
    return [...names, ...spans];
  }

  /** Milliseconds since 1970 of time 0. */
  get origin(): number {
    return this.#origin ?? 0;
  }

  #track(track: Track, names: TraceEvent[]): Begun[] {
    const { name, spans } = track;
    if (name === "episodes") return this.#episodes(track, names);
    const engine = /^engine\/(\d+)$/.exec(name);
    if (engine === null) {
      names.push(...this.#process(CONTROL, name), ...this.#thread(CONTROL, 1, "phases"));
      return [...eachSpan(spans)].map((span) => this.#event(span, CONTROL, 1, "control", { step: span.amount }));
    }
    const pid = FIRST_ENGINE + Number(engine[1]);
    names.push(...this.#process(pid, `engine ${engine[1]}`), ...this.#thread(pid, 1, "micro-operations"));
    return [...eachSpan(spans)].map((span) =>
      this.#event(span, pid, 1, "engine", span.amount > 0 ? { tokens: span.amount } : {}),
    );
  }

  #episodes({ rows = [], spans }: Track, names: TraceEvent[]): Begun[] {
    names.push(...this.#process(EPISODES, "episodes"));
    return groupEpisodes(rows, spans).flatMap(({ id, phases, begin, end }) => {
      const row = freeRow(this.#rows, begin);
      this.#rows[row] = end;
      names.push(...this.#thread(EPISODES, row + 1, `row ${row + 1}`));
      const whole = { name: shortId(id), begin, end, amount: 0 };
      return [
        this.#event(whole, EPISODES, row + 1, "episode", { episode: id }),
        ...phases.map((phase) => this.#event(phase, EPISODES, row + 1, "phase", {})),
      ];
    });
  }

  #event({ name, begin, end }: Span, pid: number, tid: number, cat: string, args: TraceEvent["args"]): Begun {
    const at = (time: number) => Math.round((time - this.origin) * 1000);
    return { name, ph: "X", pid, tid, ts: at(begin), dur: at(end) - at(begin), cat, args };
  }

  #process(pid: number, name: string): TraceEvent[] {
    return this.#name(`${pid}`, [
      { name: "process_name", ph: "M", pid, tid: 0, args: { name } },
      { name: "process_sort_index", ph: "M", pid, tid: 0, args: { sort_index: pid === EPISODES ? 1000 : pid } },
    ]);
  }

  #thread(pid: number, tid: number, name: string): TraceEvent[] {
    return this.#name(`${pid}/${tid}`, [
      { name: "thread_name", ph: "M", pid, tid, args: { name } },
      { name: "thread_sort_index", ph: "M", pid, tid, args: { sort_index: tid } },
    ]);
  }

  #name(key: string, events: TraceEvent[]): TraceEvent[] {
    if (this.#named.has(key)) return [];
    this.#named.add(key);
    return events;
  }
}

export interface EpisodeSpans {
  readonly id: string;
  readonly phases: readonly Span[];
  readonly begin: number;
  readonly end: number;
}

/** The phases of each episode, in the order in which the episodes began. */
export function groupEpisodes(rows: readonly string[], spans: Track["spans"]): EpisodeSpans[] {
  const phases: Span[][] = rows.map(() => []);
  for (const span of eachSpan(spans)) phases[span.amount]?.push(span);
  return rows
    .flatMap((id, i) => {
      const own = phases[i] ?? [];
      const [first, last] = [own[0], own.at(-1)];
      return first === undefined || last === undefined ? [] : [{ id, phases: own, begin: first.begin, end: last.end }];
    })
    .sort((a, b) => a.begin - b.begin);
}

/** The first row in which nothing is under way; `ends` says when the last episode of each row ended. */
export function freeRow(ends: readonly number[], begin: number): number {
  const free = ends.findIndex((end) => end <= begin);
  return free < 0 ? ends.length : free;
}

/** An episode's id without its run: `train/3/0/7`. */
export function shortId(id: string): string {
  return id.slice(id.indexOf("/") + 1);
}

/**
 * Writes the kept timeline of a run. Returns the number of its steps.
 * @throws AleError("storage_full"), AleError("usage") when the file cannot be written or nothing was recorded.
 */
export async function writeTrace(store: Store, runId: string, path: string): Promise<number> {
  const steps = await store.readTimelineSteps(runId);
  if (steps.length === 0) {
    throw new AleError("usage", `the store has no timeline of run ${runId}`, {
      hint: "committed steps have one while timeline.enabled is true",
    });
  }
  await writeAtomically(path, async (partial) => {
    const file = new LineWriter(partial);
    try {
      await writeEvents(store, runId, steps, file);
      file.finish();
    } finally {
      file.close();
    }
  });
  return steps.length;
}

async function writeEvents(store: Store, runId: string, steps: readonly number[], file: LineWriter): Promise<void> {
  const builder = new TraceBuilder();
  let dropped = 0;
  let comma = "";
  file.write('{"displayTimeUnit":"ms","traceEvents":[');
  for (const step of steps) {
    const tracks = await store.readTimeline(runId, step);
    dropped += tracks.reduce((sum, { spans }) => sum + spans.dropped, 0);
    for (const event of builder.step(tracks)) {
      file.write(`${comma}${JSON.stringify(event)}`);
      comma = ",";
    }
  }
  const startedAt = new Date(builder.origin).toISOString();
  file.write(`],"otherData":${JSON.stringify({ run: runId, startedAt, steps: steps.length, droppedSpans: dropped })}}`);
}
