/** `report.html`: one file without scripts and without anything to load, readable in any browser, now and later. */

import { createHash } from "node:crypto";
import { parse } from "smol-toml";
import type { EpisodeDetail, EvaluationRecord } from "../../store/records.ts";
import type { HeldOutSummary } from "../summary.ts";
import { fitLearningCurve, learningCurve, smallCharts } from "./curves.ts";
import type { ReportData, SampleEpisodes } from "./data.ts";
import { forkSection } from "./forks.ts";
import { gantt } from "./gantt.ts";
import { headline } from "./headline.ts";
import { Html, type HtmlValue, html } from "./html.ts";
import { STYLE } from "./style.ts";

const percent = (value: number) => `${(value * 100).toFixed(1)} %`;
/** Characters of a command or an observation that are shown. */
const SHOWN = 4000;

export function renderReport(data: ReportData): string {
  const { run } = data;
  const hash = createHash("sha256").update(STYLE).digest("base64");
  const policy = `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'`;
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${new Html(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${run.id}: ${run.name}, seed ${run.seed}</title>
<style>${new Html(STYLE)}</style>
</head>
<body>
<main>
${header(data)}
${tiles(data)}
<section>
<h2>Learning curve</h2>
<div class="card scroll curve">${learningCurve(data)}</div>
${fitNote(data)}
${headline(data)}
</section>
${curves(data)}
${forkSection(data.forks)}
${timeline(data)}
${families(data)}
${data.samples.map(samples)}
${settings(data)}
<footer>Made by ale ${run.aleVersion} from run ${run.id}. The same data: <code>summary.json</code>, <code>metrics.jsonl</code>, <code>trajectories.parquet</code> (columns in <code>columns.md</code>) beside this file.</footer>
</main>
</body>
</html>
`;
  return page.toString();
}

function header({ run, summary }: ReportData): Html {
  const day = new Date(run.createdAt).toISOString().slice(0, 16).replace("T", " ");
  const parts = [run.algorithm, `seed ${run.seed}`, `started ${day} UTC`, summary.status];
  return html`<header><h1>${run.name}</h1><p class="lead">${run.id} · ${parts.join(" · ")}</p></header>`;
}

function tiles({ run, summary }: ReportData): Html {
  const { initial, final, best } = summary.heldOut;
  const all: HtmlValue[] = [
    successTile("held-out success, start", initial),
    successTile(final === null ? "held-out success" : `held-out success, step ${final.step}`, final),
    best !== null && best.step !== final?.step ? successTile(`best on dev: step ${best.step}`, best) : null,
    tile(`${summary.steps}`, `steps of ${run.steps}`),
    tile(summary.episodes.toLocaleString("en"), "episodes in sandboxes"),
    tile(duration(summary.wallSeconds), "wall time"),
  ];
  return html`<div class="tiles">${all}</div>`;
}

function successTile(label: string, success: HeldOutSummary | null): HtmlValue {
  if (success === null) return null;
  const { rate, low, high, n, greedy } = success;
  const interval = `${(low * 100).toFixed(1)} to ${percent(high)}`;
  const beside = greedy === null ? `n = ${n}` : `n = ${n}, greedy ${percent(greedy)}`;
  return html`<div class="card tile"><b>${percent(rate)}</b><span>${label}</span><span>${interval}</span><span>${beside}</span></div>`;
}

function tile(value: string, label: string): Html {
  return html`<div class="card tile"><b>${value}</b><span>${label}</span></div>`;
}

function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${(seconds / 60).toFixed(1)} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function fitNote(data: ReportData): HtmlValue {
  const curve = fitLearningCurve(data);
  if (curve === undefined) return null;
  const { fit, source } = curve;
  // A parabola knows no ceiling; a curve that levels off below 100 % can lift its vertex above it.
  const beyond = fit.converged > 1 ? " No success rate exceeds 100 %: here the parabola overshoots." : "";
  const vertex = fit.vertexIsInsideMaximum
    ? `its vertex, ${percent(fit.vertexY)} at step ${fit.vertexX.toFixed(0)}, lies within the run`
    : "its vertex lies outside the run, so its value at the last step counts";
  return html`<p class="note">Bands are Wilson 95 % intervals. The parabola fitted to ${source} explains ${percent(
    Math.max(0, fit.r2),
  )} of its variance; ${vertex}: converged at ${percent(fit.converged)}, ${signed(fit.gain)} from the first value.${beyond} Largest raw value: ${percent(fit.peak)}.</p>`;
}

/** A difference of rates in points. */
function signed(difference: number): string {
  return `${difference >= 0 ? "+" : "−"}${Math.abs(difference * 100).toFixed(1)} points`;
}

function curves(data: ReportData): HtmlValue {
  const charts = smallCharts(data, parityLimit(data.configuration));
  if (charts.length === 0) return null;
  const cards = charts.map(({ title, chart }) => html`<div class="card"><h3>${title}</h3>${chart}</div>`);
  return html`<section><h2>During training</h2><div class="grid2">${cards}</div></section>`;
}

function timeline({ timelines }: ReportData): HtmlValue {
  const picture = gantt(timelines);
  if (picture === undefined) return null;
  return html`<section><h2>Training over time</h2><div class="card scroll">${picture}</div></section>`;
}

function parityLimit(toml: string): number | undefined {
  try {
    const { trainer } = parse(toml);
    const limit = typeof trainer === "object" && "parityLimit" in trainer ? trainer.parityLimit : undefined;
    return typeof limit === "number" && limit > 0 ? limit : undefined;
  } catch {
    return undefined; // A report of a run whose settings cannot be read is better than none.
  }
}

function families({ evaluations }: ReportData): HtmlValue {
  const rows = evaluations.filter((row) => row.split === "heldout" && !row.greedy);
  const [first, last] = [rows[0], rows.at(-1)];
  if (first === undefined || last === undefined) return null;
  const names = Object.keys(last.perFamily).sort();
  if (names.length === 0) return null;
  return html`<section><h2>Held-out success by task family</h2><div class="card scroll"><table>
<thead><tr><th>family</th><th class="n">step ${first.step}</th><th class="n">step ${last.step}</th><th class="n">change</th><th></th><th class="n">instances</th></tr></thead>
<tbody>${names.map((name) => familyRow(name, first, last))}</tbody></table></div></section>`;
}

function familyRow(name: string, first: EvaluationRecord, last: EvaluationRecord): Html {
  const before = first.perFamily[name]?.rate ?? 0;
  const after = last.perFamily[name]?.rate ?? 0;
  const direction = after > before ? "up" : after < before ? "down" : "same";
  return html`<tr><td>${name}</td><td class="n">${percent(before)}</td><td class="n">${percent(after)}</td>
<td class="n ${direction}">${signed(after - before)}</td><td><svg class="bar" viewBox="0 0 120 10" aria-hidden="true"><rect class="track" width="120" height="10"/><rect class="last" width="${Math.round(after * 120)}" height="10"/><rect class="first" x="${Math.max(0, Math.round(before * 120) - 1)}" width="2" height="10"/></svg></td>
<td class="n">${last.perFamily[name]?.n ?? 0}</td></tr>`;
}

function samples(group: SampleEpisodes): Html {
  const title = group.when === "first" ? "Episodes before training" : "Episodes at the end";
  const heading = group.step === 0 || group.when === "last" ? title : "Episodes at the start";
  return html`<section><h2>${heading}</h2><p class="note">Step ${group.step}: a few failures and successes of different families. What the agent wrote is shown as text.</p>
${group.failed.map(episode)}${group.solved.map(episode)}</section>`;
}

function episode(detail: EpisodeDetail): Html {
  const solved = detail.reward >= 1;
  const badge = html`<span class="badge ${solved ? "up" : "down"}">${solved ? "solved" : "failed"}</span>`;
  const error = detail.error === null ? null : html`<p class="down">${cut(detail.error)}</p>`;
  const instruction = detail.instruction === null ? null : html`<pre>${cut(detail.instruction)}</pre>`;
  return html`<details><summary>${badge}${detail.family} <span class="id">${detail.id} · reward ${detail.reward} · stopped: ${detail.stopReason} · ${plural(detail.turns.length, "turn")}</span></summary>
${instruction}${detail.turns.map(turn)}${error}</details>`;
}

function turn(item: EpisodeDetail["turns"][number]): Html {
  const code = item.exitCode === null ? "no exit code" : `exit ${item.exitCode}`;
  const times = `${code} · generated in ${(item.generatedMs - item.startedMs).toFixed(0)} ms · ran ${(
    item.observedMs - item.generatedMs
  ).toFixed(0)} ms`;
  const output = item.observation === "" ? null : html`<pre>${cut(item.observation)}</pre>`;
  return html`<div class="turn"><pre class="command">$ ${cut(item.command)}</pre>${output}<span class="meta">${times}</span></div>`;
}

function plural(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function cut(text: string): string {
  return text.length <= SHOWN ? text : `${text.slice(0, SHOWN)} … (${text.length - SHOWN} more characters)`;
}

function settings({ run, configuration }: ReportData): Html {
  const facts: readonly (readonly [string, string])[] = [
    ["run directory", run.outDir],
    ["isolation", run.isolation],
    ["configuration", run.configHash],
    ["ale", run.aleVersion],
  ];
  return html`<section><h2>Settings</h2><div class="card scroll"><table><tbody>${facts.map(
    ([name, value]) => html`<tr><th>${name}</th><td>${value}</td></tr>`,
  )}</tbody></table></div>
<details><summary>Resolved experiment file</summary><pre>${configuration}</pre></details></section>`;
}
