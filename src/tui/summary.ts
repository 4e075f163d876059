import type { EvaluationSummary } from "../core/events.ts";
import { formatDuration, formatPercent } from "./format.ts";
import { type PanelState, splitName } from "./panel-state.ts";
import { type Painter, plain } from "./style.ts";

/** What a run achieved, first evaluation against last: one line per kind of evaluation, and the time it took. */
export function summaryLines(state: PanelState, paint: Painter = plain): string[] {
  const kinds = new Map<string, EvaluationSummary[]>();
  for (const evaluation of state.evaluations) {
    const key = `${splitName(evaluation.split)} ${evaluation.greedy ? "greedy" : "sampled"}`;
    kinds.set(key, [...(kinds.get(key) ?? []), evaluation]);
  }
  const lines = [...kinds].flatMap(([name, evaluations]) => {
    const first = evaluations[0];
    const last = evaluations.at(-1);
    if (first === undefined || last === undefined) return [];
    const interval = `[${(last.low * 100).toFixed(1)}, ${(last.high * 100).toFixed(1)}] n ${last.n}`;
    const from = first === last ? "" : `${formatPercent(first.rate)} → `;
    return [`${name.padEnd(20)} ${from}${paint("bold", formatPercent(last.rate))} ${paint("dim", interval)}`];
  });
  return [...lines, `${"time".padEnd(20)} ${formatDuration(state.workedMs + state.now - state.startedAt)}`];
}
