/** The live panel: `renderPanel(state, width, height)` is a pure function from the state to lines. */

import { drawBar, drawChart, type Series } from "./chart.ts";
import { formatCount, formatDuration, formatPercent, formatSmall, stalenessText } from "./format.ts";
import {
  countPhases,
  LIVE_PHASES,
  latestEvaluation,
  liveRates,
  type PanelState,
  remainingMs,
  type Stage,
  splitName,
} from "./panel-state.ts";
import { sanitizeLine } from "./sanitize.ts";
import { type Painter, plain } from "./style.ts";

const MAX_WIDTH = 120;
const LABEL_WIDTH = 11;
/** From this width on, the legend stands beside the chart. */
const SIDE_LEGEND = 96;
const LEGEND_WIDTH = 40;
/** Below this height, sections are not separated by empty lines. */
const SPACIOUS_HEIGHT = 32;
const MIN_CHART_HEIGHT = 4;
const MAX_CHART_HEIGHT = 12;

/** Lines of the panel, none wider than `width` and fewer than `height` of them, so that the terminal never scrolls. */
export function renderPanel(state: PanelState, width: number, height: number, paint: Painter = plain): string[] {
  const columns = Math.max(20, Math.min(width, MAX_WIDTH));
  const room = Math.max(3, height - 1);
  const head = [titleLine(state, columns, paint), progressLine(state, columns, paint)];
  const idle = state.status === "running" ? "Ctrl-C saves and stops" : state.status;
  const foot = [paint("dim", ` ${state.message ?? idle}`)];
  const stages = state.stages.flatMap((stage) => stageLines(stage, state.now, columns, paint));
  if (isPreparing(state)) stages.push(paint("dim", " preparing sandboxes and engine …"));
  const phases = phaseLines(state, columns, paint);
  const facts = factLines(state, paint).slice(0, Math.max(0, room - head.length - foot.length - phases.length));
  const gap = height >= SPACIOUS_HEIGHT ? [""] : [];
  const body = [stages, phases, facts]
    .filter((section) => section.length > 0)
    .flatMap((section) => [...gap, ...section]);
  const chart = chartLines(state, columns, room - head.length - body.length - foot.length - gap.length, paint);
  const lines = [...head, ...(chart.length > 0 ? [...gap, ...chart] : []), ...body];
  return [...lines.slice(0, room - foot.length), ...foot].map((line) => fit(line, columns));
}

/** Nothing to count yet: the engine starts, the first sandboxes are made. */
function isPreparing(state: PanelState): boolean {
  const { collection, inFlight, stages, evaluations, step, status } = state;
  const idle = collection === undefined && inFlight.size === 0 && stages.length === 0;
  return idle && evaluations.length === 0 && step === 0 && status === "running";
}

function fit(line: string, columns: number): string {
  if (Bun.stringWidth(line) <= columns) return line;
  const cut = Bun.sliceAnsi(line, 0, columns - 1);
  // A slice that ends inside a double-width character keeps all of it.
  return `${Bun.stringWidth(cut) < columns ? cut : Bun.sliceAnsi(line, 0, columns - 2)}…`;
}

function titleLine(state: PanelState, width: number, paint: Painter): string {
  const { run, step } = state;
  if (run === undefined) return ` ${paint("bold", "starting")} ${formatDuration(state.now - state.startedAt)}`;
  const name = sanitizeLine(run.name, 40);
  const isolation = width >= SIDE_LEGEND ? ` · ${sanitizeLine(run.isolation, 40)}` : "";
  const details = `${sanitizeLine(run.algorithm, 20)} · seed ${run.seed}${isolation}`;
  const remaining = remainingMs(state);
  const isShort = remaining === undefined || remaining < 1000 || state.status !== "running";
  const eta = isShort || step >= run.steps ? "" : ` · ${formatDuration(remaining)} left`;
  const elapsed = formatDuration(state.workedMs + state.now - state.startedAt);
  const right = run.steps > 0 ? `step ${step}/${run.steps} · ${elapsed}${eta}` : elapsed;
  const gap = Math.max(2, width - 2 - Bun.stringWidth(`${name}  ${details}`) - right.length);
  return ` ${paint("bold", name)}  ${paint("dim", details)}${" ".repeat(gap)}${right}`;
}

function progressLine(state: PanelState, width: number, paint: Painter): string {
  const total = state.run?.steps ?? 0;
  const share = total === 0 ? 0 : state.step / total;
  const room = width - 2;
  const bar = drawBar(share, room);
  return ` ${paint("green", bar)}${paint("dim", "─".repeat(Math.max(0, room - bar.length)))}`;
}

function stageLines(stage: Stage, now: number, width: number, paint: Painter): string[] {
  const share = stage.total > 0 ? stage.done / stage.total : 0;
  const finished = stage.done >= stage.total;
  const elapsed = now - stage.startedAt;
  const left = share > 0 && !finished ? ` · ${formatDuration((elapsed / share) * (1 - share))} left` : "";
  const count = `${stage.done}/${stage.total} ${sanitizeLine(stage.unit, 20)}${left}`;
  const barWidth = Math.max(8, Math.min(30, width - 60));
  const bar = drawBar(share, barWidth);
  const numbers = Object.entries(stage.metrics)
    .slice(0, 4)
    .map(([name, value]) => `${sanitizeLine(name, 24)} ${formatMetric(value)}`)
    .join(" · ");
  const name = paint(finished ? "dim" : "bold", sanitizeLine(stage.name, 26).padEnd(26));
  const line = ` ${name} ${paint("green", bar)}${paint("dim", "─".repeat(barWidth - bar.length))} ${count}`;
  return numbers === "" || finished ? [line] : [line, ` ${" ".repeat(27)}${paint("dim", numbers)}`];
}

function formatMetric(value: number): string {
  return Math.abs(value) >= 0.001 || value === 0 ? formatCount(value) : formatSmall(value);
}

function chartLines(state: PanelState, width: number, room: number, paint: Painter): string[] {
  if (state.rewards.length === 0 && state.evaluations.length === 0) return [];
  const beside = width >= SIDE_LEGEND;
  const entries = legendEntries(state, paint);
  const legend = beside
    ? entries.flatMap(({ title, detail }) => (detail === "" ? [title] : [title, `    ${detail}`]))
    : [];
  const below = beside
    ? []
    : flow(
        entries.map(({ short }) => short),
        width,
      );
  const height = Math.min(MAX_CHART_HEIGHT, room - below.length);
  if (height < MIN_CHART_HEIGHT) return room >= below.length ? below : [];
  const size = { width: beside ? width - LEGEND_WIDTH - 2 : width - 1, height };
  const chart = drawChart(curves(state), { ...size, xMax: Math.max(1, state.run?.steps ?? 1) }, paint);
  return [...chart.map((line, index) => ` ${line}  ${legend[index - 1] ?? ""}`.trimEnd()), ...below];
}

/** Puts entries side by side as far as they fit. */
function flow(entries: readonly string[], width: number): string[] {
  const lines: string[] = [];
  for (const entry of entries) {
    const joined = lines.length === 0 ? ` ${entry}` : `${lines.at(-1)}   ${entry}`;
    if (lines.length > 0 && Bun.stringWidth(joined) <= width) lines[lines.length - 1] = joined;
    else lines.push(` ${entry}`);
  }
  return lines;
}

function evaluationSplit(state: PanelState): "heldout" | "dev" {
  return state.evaluations.some((evaluation) => evaluation.split === "heldout") ? "heldout" : "dev";
}

function curves(state: PanelState): Series[] {
  const split = evaluationSplit(state);
  const points = (greedy: boolean) =>
    state.evaluations
      .filter((evaluation) => evaluation.split === split && evaluation.greedy === greedy)
      .map(({ step, rate, low, high }) => (greedy ? { x: step, y: rate } : { x: step, y: rate, low, high }));
  return [
    { points: state.rewards, style: "blue", line: "none" },
    { points: points(true), style: "yellow", line: "dashed" },
    { points: points(false), style: "green", line: "solid" },
  ];
}

interface LegendEntry {
  readonly title: string;
  readonly detail: string;
  /** Both in one, for a legend below the chart. */
  readonly short: string;
}

function legendEntries(state: PanelState, paint: Painter): LegendEntry[] {
  const split = evaluationSplit(state);
  const name = splitName(split);
  const entries: LegendEntry[] = [];
  for (const greedy of [false, true]) {
    const evaluation = latestEvaluation(state, split, greedy);
    if (evaluation === undefined) continue;
    const { rate, low, high, n, step } = evaluation;
    const mark = greedy ? paint("yellow", "⠤ ⠤") : paint("green", "⠤⠤⠤");
    const value = paint("bold", formatPercent(rate));
    const interval = `[${(low * 100).toFixed(1)}, ${(high * 100).toFixed(1)}]`;
    entries.push({
      title: `${mark} ${name} ${greedy ? "greedy " : "sampled"} ${value}`,
      detail: paint("dim", `${interval} n ${n} at step ${step}`),
      short: `${mark} ${greedy ? "greedy" : name} ${value} ${paint("dim", interval)}`,
    });
  }
  const reward = state.rewards.at(-1);
  if (reward !== undefined) {
    const title = `${paint("blue", "⠂⠂⠂")} training reward ${paint("bold", reward.y.toFixed(3))}`;
    entries.push({ title, detail: "", short: title.replace("training ", "") });
  }
  return entries;
}

function phaseLines(state: PanelState, width: number, paint: Painter): string[] {
  const { collection, training, metrics } = state;
  if (collection === undefined && state.inFlight.size === 0 && metrics["timing_s/gen"] === undefined) return [];
  const counts = countPhases(state);
  const total = Math.max(1, collection?.total ?? state.inFlight.size);
  const barWidth = Math.max(6, Math.min(36, width - 44));
  const row = (label: string, count: number, note: string): string => {
    const bar = drawBar(count / total, barWidth);
    const number = count === 0 ? paint("dim", "0") : String(count);
    const space = " ".repeat(Math.max(1, barWidth + 6 - bar.length - String(count).length));
    return ` ${label.padEnd(LABEL_WIDTH)}${paint("cyan", bar)} ${number}${space}${paint("dim", note)}`.trimEnd();
  };
  const done = collection === undefined ? "" : ` · ${collection.label}: ${collection.done} of ${collection.total} done`;
  const title = `in flight${done}`;
  const times = state.step > 0 && metrics["timing_s/step"] !== undefined;
  const heading = times ? `${title.padEnd(barWidth + 10)} last step` : title;
  // Episodes run side by side, so the sum over them (Σ) is longer than the step.
  const summed = (phase: string) => seconds("Σ", metrics[`timing_s/episodes/${phase}`]);
  return [
    ` ${paint("bold", "episodes".padEnd(LABEL_WIDTH))}${paint("dim", heading)}`,
    ...LIVE_PHASES.map((phase) => row(phase, counts[phase], summed(phase))),
    row("train", training ? (collection?.done ?? 0) : 0, seconds(" ", metrics["timing_s/update_actor"])),
  ];
}

function seconds(mark: string, value: number | undefined): string {
  return value === undefined ? "" : `${mark}${value.toFixed(2).padStart(9)} s`;
}

function factLines(state: PanelState, paint: Painter): string[] {
  const fact = (label: string, text: string) => ` ${paint("dim", label.padEnd(LABEL_WIDTH))}${text}`;
  const lines: string[] = [];
  const speed = speedText(state);
  if (speed !== "") lines.push(fact("speed", speed));
  const learning = learningText(state.metrics);
  if (learning !== "") lines.push(fact("learning", learning));
  const cache = cacheText(state.metrics);
  if (cache !== "") lines.push(fact("cache", paint("yellow", cache)));
  const parity = parityText(state, paint);
  if (parity !== "") lines.push(fact("parity", parity));
  if (state.changed.length > 0) lines.push(fact("changed", sanitizeLine(state.changed.join("  "), 400)));
  if (state.url !== undefined) lines.push(fact("dashboard", sanitizeLine(state.url, 200)));
  if (state.run !== undefined) lines.push(fact("results", sanitizeLine(state.run.outDir, 300)));
  return lines;
}

function speedText(state: PanelState): string {
  const { metrics } = state;
  const live = liveRates(state);
  const tokens = live?.tokens ?? metrics["perf/throughput"];
  const episodes = live?.episodes ?? metrics["perf/episodes_per_second"];
  const parts: string[] = [];
  if (tokens !== undefined) parts.push(`${formatCount(Math.round(tokens))} tokens/s`);
  if (episodes !== undefined) parts.push(`${formatCount(episodes)} episodes/s`);
  const step = metrics["timing_s/step"];
  const update = metrics["timing_s/update_actor"];
  if (step === undefined && update !== undefined) parts.push(`update ${update.toFixed(3)} s`);
  if (step !== undefined) {
    const phase = (label: string, name: string) => `${label} ${(metrics[name] ?? 0).toFixed(2)}`;
    parts.push(
      `step ${step.toFixed(2)} s (${phase("collect", "timing_s/gen")}, ${phase("train", "timing_s/update_actor")})`,
    );
  }
  const staleness = stalenessText(metrics);
  if (staleness !== undefined) parts.push(staleness);
  const idle = idleShares(metrics);
  if (idle.length > 1) parts.push(`idle ${idle.map(formatPercent).join(", ")}`);
  return parts.join(" · ");
}

/** Of each engine, the share of the last step it had nothing to do. */
function idleShares(metrics: Readonly<Record<string, number>>): number[] {
  const shares: number[] = [];
  for (let i = 0; ; i++) {
    const share = metrics[`perf/engine/${i}/idle_share`];
    if (share === undefined) return shares;
    shares.push(share);
  }
}

function learningText(metrics: Readonly<Record<string, number>>): string {
  const parts: string[] = [];
  const add = (label: string, name: string, format: (value: number) => string) => {
    const value = metrics[name];
    if (value !== undefined) parts.push(`${label} ${format(value)}`);
  };
  add("lr", "actor/lr", formatMetric);
  add("loss", "actor/pg_loss", (value) => value.toFixed(4));
  add("loss", "sft/loss", (value) => value.toFixed(4));
  add("entropy", "actor/entropy", (value) => value.toFixed(3));
  add("gradient norm", "actor/grad_norm", (value) => value.toFixed(2));
  add("clipped", "actor/pg_clipfrac", formatPercent);
  return parts.join(" · ");
}

/** Contexts that had to be computed again in the last step; empty when there were none. */
function cacheText(metrics: Readonly<Record<string, number>>): string {
  const again = metrics["perf/kv/reprefill_tokens"] ?? 0;
  if (again === 0) return "";
  const evicted = metrics["perf/kv/evicted_tokens"] ?? 0;
  const cost = (metrics["timing_s/kv/reprefill"] ?? 0).toFixed(2);
  return `${formatCount(again)} tokens prefilled again, ${cost} s · ${formatCount(evicted)} evicted`;
}

function parityText(state: PanelState, paint: Painter): string {
  const parts: string[] = [];
  const gap = state.metrics["rollout_corr/logprob_abs_diff_max"];
  if (gap !== undefined) {
    const limit = state.parityLimit;
    const isOver = limit !== undefined && gap > limit;
    const text = `max |Δlogp| ${formatSmall(gap)}${limit === undefined ? "" : `, limit ${formatSmall(limit)}`}`;
    parts.push(isOver ? paint("red", text) : text);
  }
  if (state.restarts > 0) {
    const reason = sanitizeLine(state.restartReason ?? "", 60);
    parts.push(paint("yellow", `engine restarted ${state.restarts}×: ${reason}`));
  } else if (parts.length > 0) {
    parts.push("no engine restarts");
  }
  if (state.launcher !== undefined) {
    const { restarts, reason } = state.launcher;
    parts.push(paint("yellow", `sandboxes lost ${restarts}×: ${sanitizeLine(reason, 80)}`));
  }
  return parts.join(" · ");
}
