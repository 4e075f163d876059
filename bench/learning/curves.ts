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

/** A standalone SVG. x is training steps, or environment steps (thousands) where the plan compares at those. */
export function curvesSvg(plan: Plan, arms: readonly ArmCurves[]): string {
  const thousands = plan.envSteps !== undefined;
  const lines = arms.map(({ results }) => results.map((result) => pointsOf(result, thousands)));
  const panels = arms.map(({ arm, results }, i) => {
    const faint = lines.flatMap((some, j) => (i === j ? [] : some.map((points) => line(points, false))));
    const chart = renderChart({
      title: `${arm}: held-out success over ${thousands ? "thousand environment steps" : "training steps"}`,
      ...{ width: WIDTH, height: HEIGHT, xLabel: "", yLabel: "", yDomain: [0, 1] },
      format: (value) => `${Math.round(value * 100)} %`,
      layers: [...faint, ...(lines[i] ?? []).map((points) => line(points, true))],
    });
    const last = results.map(({ curve }) => `${((curve.at(-1)?.rate ?? 0) * 100).toFixed(1)} %`).join(", ");
    const [x, y] = [(i % COLUMNS) * (WIDTH + GAP), Math.floor(i / COLUMNS) * (HEIGHT + GAP)];
    return html`<svg x="${x}" y="${y}" width="${WIDTH}" height="${HEIGHT}"><text class="name" x="58" y="16">${arm}</text>
<text class="end" x="${WIDTH - 16}" y="16">${last}</text>${chart}</svg>`;
  });
  const [width, height] = [COLUMNS * (WIDTH + GAP), Math.ceil(arms.length / COLUMNS) * (HEIGHT + GAP)];
  const markup = html`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img">
<title>${plan.about}: held-out success, sampled, over ${thousands ? "thousand environment steps" : "training steps"}</title>
<style>${STYLE}</style>
${panels}
</svg>`;
  return `${markup}\n`;
}

function pointsOf({ curve }: Result, thousands: boolean): Point[] {
  return curve.map(({ step, envSteps, rate }) => ({ x: thousands ? envSteps / 1000 : step, y: rate }));
}

function line(points: readonly Point[], own: boolean): Layer {
  return { kind: "line", name: "", tone: own ? "blue" : "grey", points, markers: own };
}
