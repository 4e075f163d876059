/** The learning curve's values beside those of the paper's headline figure (arXiv 2512.24873, figure 1). */

import { basename } from "node:path";
import { parseExperiment } from "../../config/load.ts";
import { fitLearningCurve } from "./curves.ts";
import type { ReportData } from "./data.ts";
import { type HtmlValue, html } from "./html.ts";

/** Read off the figure; the text has no numbers, and the figure does not name its tasks. */
const PAPER = { initial: 0.416, peak: 0.8983, converged: 0.8768 } as const;

const percent = (value: number) => `${(value * 100).toFixed(2)} %`;

/** For runs on the shell suite alone, the tasks that stand in for the paper's here. */
export function headline(data: Pick<ReportData, "configuration" | "evaluations" | "metrics">): HtmlValue {
  const curve = isShellSuite(data.configuration) ? fitLearningCurve(data) : undefined;
  if (curve === undefined || curve.source !== "held-out success") return null;
  const heldOut = data.evaluations.filter((row) => row.split === "heldout" && !row.greedy);
  const initial = heldOut[0]?.rate ?? 0;
  const ours = { initial, peak: curve.fit.peak, converged: curve.fit.converged };
  const cells = (row: typeof PAPER | typeof ours) =>
    [row.initial, row.peak, row.converged].map((value) => html`<td class="n">${percent(value)}</td>`);
  const gain = (row: typeof PAPER | typeof ours) =>
    html`<td class="n">+${((row.converged - row.initial) * 100).toFixed(2)}</td>`;
  return html`<div class="card scroll"><table>
<thead><tr><th>learning curve</th><th class="n">initial</th><th class="n">peak</th><th class="n">converged, quadratic fit</th><th class="n">gain, points</th></tr></thead>
<tbody><tr><td>this run, held-out</td>${cells(ours)}${gain(ours)}</tr>
<tr><td>the paper's figure 1</td>${cells(PAPER)}${gain(PAPER)}</tr></tbody></table></div>
<p class="note">Other tasks and another model: what can be compared is the shape of the curve. The figure itself says +47.07.</p>`;
}

function isShellSuite(toml: string): boolean {
  try {
    const { suite, mix } = parseExperiment("the run's configuration", toml).experiment.tasks;
    return mix === undefined && basename(suite) === "shell";
  } catch {
    return false; // a report of a run whose settings cannot be read is better than none
  }
}
