import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import type { EvaluationRecord, MetricsRow } from "../store/records.ts";
import { percent } from "./format.ts";

const HEIGHT = 300;
/** Distances between labels: whole steps. */
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000, 1_000_000];

interface CurveProps {
  readonly metrics: readonly MetricsRow[];
  readonly evaluations: readonly EvaluationRecord[];
}

/** Held-out success with its 95 % band, greedy beside it, and the training reward behind them. */
export function LearningCurve({ metrics, evaluations }: CurveProps) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const data = alignSeries(metrics, evaluations);
  useEffect(() => {
    const element = host.current;
    if (element === null) return;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(chartOptions(element.clientWidth), data, element);
    };
    draw();
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", draw);
    return () => {
      scheme.removeEventListener("change", draw);
      resized.disconnect();
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, []);
  useEffect(() => plot.current?.setData(data));
  return <div class="curve" ref={host} />;
}

/** Columns over the union of all steps; null where a series has no value. */
function alignSeries(metrics: readonly MetricsRow[], evaluations: readonly EvaluationRecord[]): uPlot.AlignedData {
  const sampled = new Map<number, EvaluationRecord>();
  const greedy = new Map<number, EvaluationRecord>();
  for (const row of evaluations) if (row.split === "heldout") (row.greedy ? greedy : sampled).set(row.step, row);
  const reward = new Map(metrics.map((row) => [row.step, row.metrics["critic/rewards/mean"] ?? null]));
  const steps = [...new Set([...reward.keys(), ...sampled.keys(), ...greedy.keys()])].sort((a, b) => a - b);
  return [
    steps,
    steps.map((step) => reward.get(step) ?? null),
    steps.map((step) => sampled.get(step)?.high ?? null),
    steps.map((step) => sampled.get(step)?.low ?? null),
    steps.map((step) => greedy.get(step)?.rate ?? null),
    steps.map((step) => sampled.get(step)?.rate ?? null),
  ];
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function chartOptions(width: number): uPlot.Options {
  const axis: uPlot.Axis = {
    stroke: colour("muted"),
    grid: { stroke: colour("rule"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  const value = (_: uPlot, raw: number | null) => percent(raw);
  const common = { spanGaps: true, value };
  const edge = { ...common, stroke: "transparent", points: { show: false }, width: 0 };
  const points = { show: true, size: 7, fill: colour("card") };
  return {
    width,
    height: HEIGHT,
    scales: { x: { time: false }, y: { range: [0, 1] } },
    axes: [
      { ...axis, grid: { show: false }, size: 34, incrs: STEPS },
      { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => `${Math.round(tick * 100)} %`) },
    ],
    legend: { live: true },
    cursor: { points: { size: 7 }, drag: { x: false, y: false } },
    series: [
      { label: "step", value: (_, raw) => (raw === null || raw === undefined ? "–" : String(raw)) },
      { ...common, label: "training reward", stroke: colour("grey"), width: 1, points: { show: false } },
      { ...edge, label: "95 % high" },
      { ...edge, label: "95 % low" },
      { ...common, label: "held-out, greedy", stroke: colour("orange"), width: 2, dash: [6, 5], points },
      { ...common, label: "held-out, sampled", stroke: colour("blue"), width: 2, points },
    ],
    bands: [{ series: [2, 3], fill: `${colour("blue")}2b` }],
  };
}
