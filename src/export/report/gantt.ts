/**
 * Training steps as a Gantt picture: what the run, its engines and its episodes did over time. A micro-operation of an
 * engine is far smaller than a point of the picture, so an engine's row shows the share of time each kind of work took.
 */

import { busyMs, eachSpan, type Span, type Track } from "../../core/timeline.ts";
import { type EpisodeSpans, groupEpisodes, shortId } from "../trace.ts";
import { type Html, type HtmlValue, html } from "./html.ts";
import { linearScale, type Scale } from "./scale.ts";

export interface StepTimeline {
  readonly step: number;
  readonly tracks: readonly Track[];
}

const WIDTH = 940;
/** Room for the longest names of rows, as `group 120/31`. */
const LEFT = 92;
const RIGHT = 12;
const PLOT = WIDTH - LEFT - RIGHT;
/** Width of a column of an engine's row. */
const COLUMN = 2;
/** Below the legend. */
const TOP = 50;
const RUN_ROW = 16;
const ENGINE_ROW = 34;
const EPISODE_ROW = 8;
const GAP = 10;
const GROUP_GAP = 5;
/** Rows of episodes; of larger steps some whole groups are shown. */
const MAX_EPISODES = 48;

/** Kinds of engine work from the bottom of the row up, with the colour and name they share in the legend. */
const WORK = [
  { spans: ["decode"], tone: "decode", label: "decode" },
  { spans: ["prefill"], tone: "prefill", label: "prefill" },
  { spans: ["forward"], tone: "forward", label: "forward" },
  { spans: ["backward"], tone: "backward", label: "backward" },
  { spans: ["optimizer"], tone: "optimizer", label: "optimizer" },
  { spans: ["exchange"], tone: "exchange", label: "waiting for engines" },
  { spans: ["publish", "save", "update", "probe"], tone: "other", label: "other work" },
] as const;

const PHASES = ["reset", "generate", "tool", "grade"] as const;
const RUN_TONES: Readonly<Record<string, string>> = { collect: "decode", update: "backward" };

/** Steps that are drawn where rollout runs ahead of training. */
export const GANTT_STEPS = 3;

/**
 * The last of the given steps, from `collect` to the end of its update; with the steps before it where its episodes began
 * before it did. Undefined where none collected episodes.
 */
export function gantt(timelines: readonly StepTimeline[]): Html | undefined {
  const collecting = timelines.filter((timeline) => phaseOf(timeline, "collect") !== undefined);
  const newest = collecting.at(-1);
  const began = newest && phaseOf(newest, "collect")?.begin;
  if (newest === undefined || began === undefined) return undefined;
  const runsAhead = episodesOf(newest).some(({ begin }) => begin < began);
  const drawn = runsAhead ? collecting.slice(-GANTT_STEPS) : [newest];
  const phases = drawn.flatMap((timeline) => [phaseOf(timeline, "collect"), phaseOf(timeline, "update")]);
  const known = phases.filter((phase) => phase !== undefined);
  const picture = new Picture(Math.min(...known.map(({ begin }) => begin)), Math.max(...known.map(({ end }) => end)));
  picture.addRun(known);
  for (const { name } of newest.tracks.filter((track) => track.name.startsWith("engine/"))) {
    const own = drawn.flatMap(({ tracks }) => tracks.filter((track) => track.name === name));
    picture.addEngine(
      `engine ${name.slice(7)}`,
      own.flatMap(({ spans }) => [...eachSpan(spans)]),
    );
  }
  const note = picture.addEpisodes(drawn.flatMap(episodesOf));
  const steps = drawn.length === 1 ? `Step ${newest.step}` : `Steps ${drawn[0]?.step} to ${newest.step}`;
  return html`${picture.render(`${steps} over time`)}<p class="note">${steps}. The height of a colour in an engine's row is the share of time it took; what is empty was idle. ${note}</p>`;
}

function phaseOf({ step, tracks }: StepTimeline, name: string): Span | undefined {
  const control = tracks.find((track) => track.name === "control");
  if (control === undefined) return undefined;
  return [...eachSpan(control.spans)].find((span) => span.name === name && span.amount === step);
}

function episodesOf({ tracks }: StepTimeline): EpisodeSpans[] {
  const episodes = tracks.find(({ name }) => name === "episodes");
  return episodes === undefined ? [] : groupEpisodes(episodes.rows ?? [], episodes.spans);
}

class Picture {
  readonly #begin: number;
  readonly #end: number;
  readonly #x: Scale;
  readonly #parts: HtmlValue[] = [];
  readonly #used = new Set<string>();
  #y = TOP;

  constructor(begin: number, end: number) {
    this.#begin = begin;
    this.#end = end;
    this.#x = linearScale([0, Math.max(1, end - begin)], LEFT, WIDTH - RIGHT, 10);
  }

  addRun(phases: readonly Span[]): void {
    const y = this.#y;
    const bars = phases.map(({ name, begin, end }) => {
      const [from, to] = [this.#at(begin), this.#at(end)];
      const text = [`${name} ${seconds(end - begin)}`, name].find(({ length }) => to - from > 6 * length + 8);
      return html`<rect class="span ${RUN_TONES[name] ?? "other"} pale" x="${from}" y="${y}" width="${fixed(to - from)}" height="${RUN_ROW}"/>
${text !== undefined && html`<text class="inside" x="${from + 6}" y="${y + 12}">${text}</text>`}`;
    });
    this.#parts.push(this.#label("run", y + 12), bars);
    this.#y += RUN_ROW + GAP;
  }

  addEngine(label: string, spans: readonly Span[]): void {
    const inside = spans.filter(({ begin, end }) => end > this.#begin && begin < this.#end);
    const columns = shares(inside, this.#begin, this.#end, Math.floor(PLOT / COLUMN));
    const base = this.#y + ENGINE_ROW;
    const paths = WORK.map(({ tone }, kind) => {
      const path = columns.map((column, i) => stackedBar(column, kind, LEFT + i * COLUMN, base)).join("");
      if (path === "") return null;
      this.#used.add(tone);
      return html`<path class="span ${tone}" d="${path}"/>`;
    });
    const window = this.#end - this.#begin;
    const busy = busyMs(inside.map((span) => clip(span, this.#begin, this.#end)));
    const idle = `${Math.round((1 - busy / window) * 100)} % idle`;
    this.#parts.push(
      html`<rect class="lane" x="${LEFT}" y="${this.#y}" width="${PLOT}" height="${ENGINE_ROW}"/>`,
      this.#label(label, this.#y + 15),
      html`<text class="small end" x="${LEFT - 8}" y="${this.#y + 28}">${idle}</text>`,
      paths,
    );
    this.#y += ENGINE_ROW + GAP;
  }

  /** Returns what to say about those that are not shown. */
  addEpisodes(all: readonly EpisodeSpans[]): string {
    const inside = all.filter(({ begin, end }) => end > this.#begin && begin < this.#end);
    const groups = new Map<string, EpisodeSpans[]>();
    for (const episode of inside) {
      const group = episode.id.slice(0, episode.id.lastIndexOf("/"));
      groups.set(group, [...(groups.get(group) ?? []), episode]);
    }
    const shown = chooseGroups([...groups.values()]);
    for (const group of shown) this.#addGroup(group);
    const count = shown.reduce((sum, group) => sum + group.length, 0);
    if (count === inside.length) return `All ${count} episodes, by group.`;
    return `${count} of ${inside.length} episodes: ${shown.length} of ${groups.size} groups, the one that took longest among them.`;
  }

  #addGroup(group: readonly EpisodeSpans[]): void {
    const id = shortId(group[0]?.id ?? "").split("/");
    this.#parts.push(this.#label(`group ${id.slice(-3, -1).join("/")}`, this.#y + EPISODE_ROW));
    const byId = [...group].sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
    for (const episode of byId) {
      const bars = PHASES.map((phase) => this.#phase(episode, phase));
      this.#parts.push(html`<g><title>${shortId(episode.id)}: ${sums(episode.phases)}</title>${bars}</g>`);
      this.#y += EPISODE_ROW;
    }
    this.#y += GROUP_GAP;
  }

  #phase({ phases }: EpisodeSpans, phase: string): HtmlValue {
    const path = phases
      .filter(({ name }) => name === phase)
      .filter(({ begin, end }) => end > this.#begin && begin < this.#end)
      .map(({ begin, end }) => {
        const from = this.#at(begin);
        return box(from, this.#y + 1, Math.max(0.4, fixed(this.#at(end) - from)), EPISODE_ROW - 2);
      });
    if (path.length === 0) return null;
    this.#used.add(phase);
    return html`<path class="span ${phase}" d="${path.join("")}"/>`;
  }

  render(title: string): Html {
    const height = this.#y + 24;
    return html`<svg class="chart gantt" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${title}">
<title>${title}</title>
${this.#grid()}${this.#parts}${this.#legend()}
</svg>`;
  }

  #grid(): HtmlValue {
    const span = this.#end - this.#begin;
    return this.#x.ticks.map((tick) => {
      const at = fixed(this.#x.at(tick));
      const label = span < 2000 ? `${tick} ms` : `${Number((tick / 1000).toPrecision(6))} s`;
      return html`<line class="grid" x1="${at}" x2="${at}" y1="${TOP - 4}" y2="${this.#y}"/><text class="middle" x="${at}" y="${this.#y + 16}">${label}</text>`;
    });
  }

  /** A line for engines and one for episodes; only what occurs. */
  #legend(): HtmlValue {
    const line = (title: string, y: number, entries: readonly { readonly tone: string; readonly label: string }[]) => {
      let x = LEFT;
      const items = entries.map(({ tone, label }) => {
        if (!this.#used.has(tone)) return null;
        const at = x;
        x += 32 + label.length * 6.4;
        return html`<rect class="span ${tone}" x="${fixed(at)}" y="${y - 9}" width="12" height="10"/><text x="${fixed(at + 16)}" y="${y}">${label}</text>`;
      });
      return html`<text class="strong end" x="${LEFT - 8}" y="${y}">${title}</text>${items}`;
    };
    const phases = PHASES.map((phase) => ({ tone: phase, label: phase }));
    return [line("engines", 15, WORK), line("episodes", 33, phases)];
  }

  #label(text: string, y: number): Html {
    return html`<text class="end" x="${LEFT - 8}" y="${y}">${text}</text>`;
  }

  #at(time: number): number {
    return fixed(this.#x.at(Math.min(this.#end, Math.max(this.#begin, time)) - this.#begin));
  }
}

const fixed = (value: number) => Number(value.toFixed(2));
const seconds = (ms: number) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

function sums(phases: readonly Span[]): string {
  const of = (phase: string) =>
    phases.filter(({ name }) => name === phase).reduce((sum, { begin, end }) => sum + end - begin, 0);
  return PHASES.map((phase) => `${phase} ${seconds(of(phase))}`).join(", ");
}

function clip(span: Span, begin: number, end: number): Span {
  return { ...span, begin: Math.max(begin, span.begin), end: Math.min(end, span.end) };
}

/**
 * Share of each kind of `WORK` in each of `count` equal stretches. What contains other spans counts for what is left of it.
 */
export function shares(spans: readonly Span[], begin: number, end: number, count: number): number[][] {
  const width = (end - begin) / count;
  const columns = Array.from({ length: count }, () => WORK.map(() => 0));
  const other = WORK.length - 1;
  const outers = spans.filter(({ name }) => name === "update" || name === "probe");
  for (const span of spans) {
    const kind = WORK.findIndex((work) => (work.spans as readonly string[]).includes(span.name));
    const isInside = kind < other && outers.some((outer) => outer.begin <= span.begin && outer.end >= span.end);
    const first = Math.max(0, Math.floor((span.begin - begin) / width));
    for (let i = first; i < count && begin + i * width < span.end; i++) {
      const column = columns[i] as number[];
      const from = Math.max(span.begin, begin + i * width);
      const share = Math.max(0, Math.min(span.end, begin + (i + 1) * width) - from) / width;
      column[kind] = (column[kind] as number) + share;
      if (isInside) column[other] = (column[other] as number) - share;
    }
  }
  return columns.map((column) => column.map((share) => Math.max(0, share)));
}

/** A column's part of one kind, on top of those of the kinds before it. */
function stackedBar(column: readonly number[], kind: number, x: number, base: number): string {
  const share = Math.min(1, column[kind] ?? 0);
  if (share < 0.005) return "";
  const below = column.slice(0, kind).reduce((sum, value) => sum + value, 0);
  const height = fixed(share * ENGINE_ROW);
  return box(x, fixed(base - below * ENGINE_ROW - height), COLUMN, height);
}

function box(x: number, y: number, width: number, height: number): string {
  return `M${x} ${y}h${width}v${height}h${-width}z`;
}

/** Groups spread evenly over the steps, and the one that lasts longest, up to `MAX_EPISODES` episodes. */
function chooseGroups(groups: readonly (readonly EpisodeSpans[])[]): (readonly EpisodeSpans[])[] {
  const size = Math.max(1, ...groups.map(({ length }) => length));
  const count = Math.max(1, Math.floor(MAX_EPISODES / size));
  const order = [...groups].sort(byNumber);
  if (order.length <= count) return order;
  const last = (group: readonly EpisodeSpans[]) => Math.max(...group.map(({ end }) => end));
  const longest = order.reduce((a, b) => (last(b) > last(a) ? b : a));
  const others = order.filter((group) => group !== longest);
  const spread = Array.from({ length: count - 1 }, (_, i) => others[Math.floor((i * others.length) / (count - 1))]);
  return [longest, ...spread.filter((group) => group !== undefined)].sort(byNumber);
}

/** By round and queue, as they stand in the ids. */
function byNumber(a: readonly EpisodeSpans[], b: readonly EpisodeSpans[]): number {
  return (a[0]?.id ?? "").localeCompare(b[0]?.id ?? "", "en", { numeric: true });
}
