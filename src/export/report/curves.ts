/** The charts of the report. */

import { fitQuadratic, type QuadraticFit } from "../../core/quadratic-fit.ts";
import type { EvaluationRecord, MetricsRow } from "../../store/records.ts";
import { type BandPoint, type ChartOptions, type Layer, type Point, renderChart } from "./chart.ts";
import type { ReportData } from "./data.ts";
import { type Html, html } from "./html.ts";

const percent = (value: number) => `${Number((value * 100).toFixed(1))} %`;
const compact = (value: number) =>
  value !== 0 && (Math.abs(value) < 0.01 || Math.abs(value) >= 1e5)
    ? value.toExponential(0).replace("e+", "e")
    : String(Number(value.toPrecision(3)));

function series(metrics: readonly MetricsRow[], name: string): Point[] {
  return metrics.flatMap((row) => (name in row.metrics ? [{ x: row.step, y: row.metrics[name] ?? null }] : []));
}

/** Fewer points than this say nothing about curvature. */
const FIT_POINTS = 4;

export interface CurveFit {
  readonly fit: QuadraticFit;
  /** What the parabola was fitted to. */
  readonly source: string;
  readonly from: number;
  readonly to: number;
}

/** The fit of sampled held-out success, or of the training reward where there are too few evaluations. */
export function fitLearningCurve({
  metrics,
  evaluations,
}: Pick<ReportData, "metrics" | "evaluations">): CurveFit | undefined {
  const heldOut = sampled(evaluations);
  const reward = series(metrics, "critic/rewards/mean").filter((point) => point.y !== null);
  const points = heldOut.length >= FIT_POINTS ? heldOut.map(({ step, rate }) => ({ x: step, y: rate })) : reward;
  if (points.length < FIT_POINTS) return undefined;
  const x = points.map((point) => point.x);
  const fit = fitQuadratic(
    x,
    points.map((point) => point.y ?? 0),
  );
  if (fit === undefined) return undefined;
  const source = heldOut.length >= FIT_POINTS ? "held-out success" : "training reward";
  return { fit, source, from: Math.min(...x), to: Math.max(...x) };
}

function sampled(evaluations: readonly EvaluationRecord[]): EvaluationRecord[] {
  return evaluations.filter((row) => row.split === "heldout" && !row.greedy);
}

/** Training reward, held-out success with its band, greedy beside it, and the fit with its vertex. */
export function learningCurve(data: ReportData): Html {
  const heldOut = sampled(data.evaluations);
  const greedy = data.evaluations.filter((row) => row.split === "heldout" && row.greedy);
  const layers: Layer[] = [];
  const reward = series(data.metrics, "critic/rewards/mean");
  if (reward.length > 0) {
    layers.push({ kind: "line", name: "training reward", tone: "grey", style: "faint", points: reward });
  }
  if (heldOut.length > 0)
    layers.push({ kind: "band", name: "95 % interval", tone: "blue", points: heldOut.map(toBand) });
  const fit = fitLearningCurve(data);
  if (fit !== undefined) layers.push(...fitLayers(fit));
  if (greedy.length > 0) layers.push(successLine("held-out, greedy", "orange", greedy, "dashed"));
  if (heldOut.length > 0) layers.push(successLine("held-out, sampled", "blue", heldOut));
  if (layers.length === 0) return html`<p class="empty">Nothing was evaluated.</p>`;
  return renderChart({
    title: "Learning curve",
    ...{ width: 940, height: 380, xLabel: "training step", yLabel: "solved", format: percent, layers },
    yDomain: [0, 1],
  });
}

function toBand({ step, low, high }: EvaluationRecord): BandPoint {
  return { x: step, low, high };
}

function successLine(name: string, tone: string, rows: readonly EvaluationRecord[], style?: "dashed"): Layer {
  const points = rows.map(({ step, rate }) => ({ x: step, y: rate }));
  return { kind: "line", name, tone, points, markers: true, ...(style === undefined ? {} : { style }) };
}

function fitLayers({ fit, from, to }: CurveFit): Layer[] {
  const count = 80;
  const points = Array.from({ length: count + 1 }, (_, i) => {
    const x = from + ((to - from) * i) / count;
    return { x, y: fit.a * x * x + fit.b * x + fit.c };
  });
  const curve: Layer = { kind: "line", name: "quadratic fit", tone: "violet", style: "dotted", points };
  if (!fit.vertexIsInsideMaximum) return [curve];
  const label = `vertex ${percent(fit.vertexY)} at step ${Math.round(fit.vertexX)}`;
  return [curve, { kind: "mark", tone: "violet", x: fit.vertexX, y: fit.vertexY, label }];
}

interface SmallChart {
  readonly title: string;
  readonly metric: string;
  readonly yLabel: string;
  readonly tone: string;
  readonly format?: (value: number) => string;
  readonly log?: boolean;
  readonly includeZero?: boolean;
}

const SMALL_CHARTS: readonly SmallChart[] = [
  { title: "Policy entropy", metric: "actor/entropy", yLabel: "nats per token", tone: "blue", includeZero: true },
  { title: "Gradient norm", metric: "actor/grad_norm", yLabel: "before clipping", tone: "blue", log: true },
  { title: "Supervised loss", metric: "sft/loss", yLabel: "nats per token", tone: "blue", includeZero: true },
  {
    title: "Groups without a signal",
    metric: "frac_reward_zero_std",
    yLabel: "share with equal rewards",
    tone: "blue",
    format: percent,
    includeZero: true,
  },
  {
    title: "Tokens per answer",
    metric: "response_length/mean",
    yLabel: "sampled tokens",
    tone: "blue",
    includeZero: true,
  },
  { title: "Turns per episode", metric: "num_turns/mean", yLabel: "turns", tone: "blue", includeZero: true },
  {
    title: "Expert's chunks before an anchor",
    metric: "resampling/expert_chunks",
    yLabel: "mean over forked groups, 0 = none needed",
    tone: "blue",
    includeZero: true,
  },
  {
    title: "Success from an expert's states",
    metric: "resampling/score/mean",
    yLabel: "solved, forked episodes",
    tone: "blue",
    format: percent,
    includeZero: true,
  },
];

export interface TitledChart {
  readonly title: string;
  readonly chart: Html;
}

function titled(options: ChartOptions): TitledChart {
  return { title: options.title, chart: renderChart(options) };
}

/** The other curves, as far as the run has them. `parityLimit` is drawn into the first. */
export function smallCharts({ metrics, evaluations }: ReportData, parityLimit: number | undefined): TitledChart[] {
  const size = { width: 460, height: 230, xLabel: "training step" };
  const charts = SMALL_CHARTS.flatMap(
    ({ metric, tone, title, yLabel, format = compact, includeZero = false, log = false }) => {
      const points = series(metrics, metric);
      if (!points.some((point) => point.y !== null)) return [];
      const layers: Layer[] = [{ kind: "line", name: metric, tone, points }];
      return [titled({ title, yLabel, format, includeZero, log, layers, ...size })];
    },
  );
  return [
    ...worstFamilyChart(evaluations, size),
    ...parityChart(metrics, parityLimit, size),
    ...timeChart(metrics, size),
    ...charts,
  ];
}

type Size = { readonly width: number; readonly height: number; readonly xLabel: string };

/** Success of all families and of the worst one, which an average hides. */
function worstFamilyChart(evaluations: readonly EvaluationRecord[], size: Size): TitledChart[] {
  const rows = sampled(evaluations).filter(({ perFamily }) => Object.keys(perFamily).length > 1);
  if (rows.length < 2) return [];
  const worst = rows.map(({ step, perFamily }) => ({
    x: step,
    y: Math.min(...Object.values(perFamily).map(({ rate }) => rate)),
  }));
  const layers: Layer[] = [
    { kind: "line", name: "all families", tone: "blue", points: rows.map(({ step, rate }) => ({ x: step, y: rate })) },
    { kind: "line", name: "worst family", tone: "orange", points: worst, markers: true },
  ];
  return [
    titled({
      title: "Held-out success, worst family",
      yLabel: "solved",
      format: percent,
      yDomain: [0, 1],
      layers,
      ...size,
    }),
  ];
}

function parityChart(metrics: readonly MetricsRow[], limit: number | undefined, size: Size): TitledChart[] {
  const points = series(metrics, "rollout_corr/logprob_abs_diff_max");
  if (!points.some((point) => point.y !== null)) return [];
  return [
    titled({
      title: "Parity of generation and training",
      ...{ yLabel: "largest |Δ log-probability|", format: compact, log: true, ...size },
      ...(limit === undefined ? {} : { limit: { y: limit, label: `limit ${compact(limit)}` } }),
      layers: [{ kind: "line", name: "parity probe", tone: "blue", points }],
    }),
  ];
}

const PHASES = [
  { metric: "timing_s/gen", name: "collect", tone: "blue" },
  { metric: "timing_s/update_actor", name: "train", tone: "orange" },
  { metric: "timing_s/testing", name: "evaluate", tone: "violet" },
] as const;

/** Seconds of each step, phases stacked. */
function timeChart(metrics: readonly MetricsRow[], size: Size): TitledChart[] {
  const rows = metrics.filter((row) => PHASES.some(({ metric }) => typeof row.metrics[metric] === "number"));
  if (rows.length < 2) return [];
  const sums = rows.map(() => 0);
  const layers = PHASES.flatMap(({ metric, name, tone }): Layer[] => {
    if (!rows.some((row) => typeof row.metrics[metric] === "number")) return [];
    const points = rows.map((row, i) => {
      const low = sums[i] ?? 0;
      sums[i] = low + (row.metrics[metric] ?? 0);
      return { x: row.step, low, high: sums[i] ?? 0 };
    });
    return [{ kind: "band", name, tone: `${tone} solid`, points }];
  });
  return [titled({ title: "Time per step", yLabel: "seconds", format: compact, includeZero: true, layers, ...size })];
}
