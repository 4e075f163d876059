/** Curves of a plan's arms as one picture: a panel per arm, the other arms faint behind it. */

import { type Layer, type Point, renderChart } from "../../src/export/report/chart.ts";
import { html } from "../../src/export/report/html.ts";
import type { Plan } from "./plans.ts";
import type { Result } from "./results.ts";

export interface ArmCurves {
  readonly arm: string;
  readonly results: readonly Result[];
}

const COLUMNS = 3;
const [WIDTH, HEIGHT, GAP] = [320, 190, 14];

/** The colours of the report for light and dark, with what its charts use of them. */
const STYLE = `svg { --text: #1d2126; --muted: #626a73; --rule: #e4e6e8; --blue: #2463c4; --grey: #9aa2ab; }
@media (prefers-color-scheme: dark) { svg { --text: #e3e6e9; --muted: #98a1aa; --rule: #2a3037; --blue: #6ea3f2; --grey: #69727c; } }
text { font: 12px system-ui, sans-serif; fill: var(--muted); } .name { font-weight: 600; fill: var(--text); }
.grid { stroke: var(--rule); } .axis { stroke: var(--muted); } .end { text-anchor: end; } .middle { text-anchor: middle; }
.line { fill: none; stroke-width: 2; } .line.blue { stroke: var(--blue); } .line.grey { stroke: var(--grey); stroke-width: 1; opacity: .45; }
.dot.blue { fill: var(--blue); }`;

interface Picture {
  readonly about: string;
  /** Points of a run; x is training steps, or `thousands` of environment steps where a plan compares at those and it can. */
  readonly points: (result: Result, thousands: boolean) => readonly Point[];
  readonly overTrainingSteps?: true;
  readonly yDomain?: readonly [number, number];
  readonly format: (value: number) => string;
  /** For the value at the end of a run; `format` when omitted. */
  readonly formatLast?: (value: number) => string;
}

/** How shares between 0 and 1 are drawn. */
const SHARE = {
  yDomain: [0, 1],
  format: (value: number) => `${Math.round(value * 100)} %`,
  formatLast: (value: number) => `${(value * 100).toFixed(1)} %`,
} as const;

const evaluations =
  (pick: (point: Result["curve"][number]) => number): Picture["points"] =>
  ({ curve }, thousands) =>
    curve.map((at) => ({ x: thousands ? at.envSteps / 1000 : at.step, y: pick(at) }));

/** What may be drawn of a plan's runs. */
export const PICTURES = {
  success: { about: "held-out success, sampled", points: evaluations(({ rate }) => rate), ...SHARE },
  worst: {
    about: "held-out success of the worst family, sampled",
    points: evaluations(({ minimum }) => minimum),
    ...SHARE,
  },
  "grad-norm": {
    about: "norm of the gradient before clipping",
    points: ({ gradNorms = [] }) => gradNorms.map(({ step, norm }) => ({ x: step, y: norm })),
    overTrainingSteps: true,
    format: (value) => value.toPrecision(2),
  },
  "expert-chunks": {
    about: "chunks of an expert before the anchors, mean",
    points: ({ expertChunks }) => expertChunks.map((y, i) => ({ x: i + 1, y })),
    overTrainingSteps: true,
    format: (value) => value.toFixed(1),
  },
} as const satisfies Record<string, Picture>;
export type PictureName = keyof typeof PICTURES;

/** A standalone SVG. */
export function curvesSvg(plan: Plan, arms: readonly ArmCurves[], name: PictureName = "success"): string {
  const picture: Picture = PICTURES[name];
  const thousands = plan.envSteps !== undefined && picture.overTrainingSteps === undefined;
  const over = `${picture.about}, over ${thousands ? "thousand environment steps" : "training steps"}`;
  const lines = arms.map(({ results }) => results.map((result) => picture.points(result, thousands)));
  const yDomain = picture.yDomain ?? [0, Math.max(0, ...lines.flat(2).map(({ y }) => y ?? 0))];
  const panels = arms.map(({ arm }, i) => {
    const faint = lines.flatMap((some, j) => (i === j ? [] : some.map((points) => line(points, "grey"))));
    const own = lines[i] ?? [];
    const chart = renderChart({
      title: `${arm}: ${over}`,
      ...{ width: WIDTH, height: HEIGHT, xLabel: "", yLabel: "", yDomain, format: picture.format },
      layers: [...faint, ...own.map((points) => line(points, "blue", !picture.overTrainingSteps))],
    });
    const ends = own.map((points) => points.at(-1)?.y ?? 0);
    const end = ends.reduce((sum, value) => sum + value, 0) / Math.max(1, ends.length);
    const last = `${ends.length > 1 ? "mean " : ""}${(picture.formatLast ?? picture.format)(end)}`;
    const [x, y] = [(i % COLUMNS) * (WIDTH + GAP), Math.floor(i / COLUMNS) * (HEIGHT + GAP)];
    return html`<svg x="${x}" y="${y}" width="${WIDTH}" height="${HEIGHT}"><text class="name" x="58" y="16">${arm}</text>
<text class="end" x="${WIDTH - 16}" y="16">${last}</text>${chart}</svg>`;
  });
  const [width, height] = [COLUMNS * (WIDTH + GAP), Math.ceil(arms.length / COLUMNS) * (HEIGHT + GAP)];
  const markup = html`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img">
<title>${plan.about}: ${over}</title>
<style>${STYLE}</style>
${panels}
</svg>`;
  return `${markup}\n`;
}

function line(points: readonly Point[], tone: "blue" | "grey", markers = false): Layer {
  return { kind: "line", name: "", tone, points, markers };
}
