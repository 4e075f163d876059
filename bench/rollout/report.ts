/** The figures of the comparison, for programs and for people. */

import type { Bound } from "./bound.ts";
import type { LawName } from "./laws.ts";
import type { Measured, Reward } from "./real-run.ts";
import type { Simulation } from "./simulator.ts";

/** One run and what the simulator says of its mode. */
export interface Row {
  readonly name: string;
  readonly law: LawName;
  readonly seed: number;
  readonly measured: Measured;
  /** Of the trained policy. */
  readonly reward: Reward;
  readonly predicted: Simulation;
  readonly bound: Bound;
  /** A decode step with all its rows. */
  readonly decodeMs: number;
}

export interface Report {
  readonly modes: readonly ReportedMode[];
  /** The quickest asynchronous mode over the synchronous one; null without both. */
  readonly asyncOverSync: number | null;
  /** The quicker of `shared` and `elastic` over `split`; null without both. */
  readonly multiplexOverSplit: number | null;
  /** The same by law. */
  readonly byLaw: Readonly<Record<string, Ratios>>;
}

interface Ratios {
  readonly asyncOverSync: number | null;
  readonly multiplexOverSplit: number | null;
}

interface ReportedMode {
  readonly name: string;
  readonly law: LawName;
  readonly seed: number;
  readonly episodesPerSecond: number;
  readonly reward: Reward;
  readonly idle: number;
  readonly stalenessMean: number;
  readonly predicted: Pick<Simulation, "episodesPerSecond" | "stalenessMean"> & { readonly idle: number };
  readonly bound: number;
  readonly overBound: number;
  /** Time that engines generated over time that they trained. */
  readonly generateOverTrain: number;
  readonly decodeMs: number;
}

/** Ratios are those of law A, or else of the first law there is: medians over the seeds. */
export function report(rows: readonly Row[]): Report {
  const laws = [...new Set(rows.map(({ law }) => law))];
  const byLaw = Object.fromEntries(laws.map((law) => [law, ratiosOf(rows.filter((row) => row.law === law))]));
  const nothing = { asyncOverSync: null, multiplexOverSplit: null };
  return { modes: rows.map(reported), ...(byLaw[laws.includes("A") ? "A" : (laws[0] ?? "A")] ?? nothing), byLaw };
}

export function table(rows: readonly Row[]): string {
  const heads = ["law", "seed", "mode", "episodes/s", "predicted", "bound", "of it", "idle", "pred.", "stale", "pred."];
  const lines = rows
    .map(reported)
    .map((row) => [
      row.law,
      String(row.seed),
      row.name,
      row.episodesPerSecond.toFixed(1),
      row.predicted.episodesPerSecond.toFixed(1),
      row.bound.toFixed(1),
      row.overBound.toFixed(2),
      percent(row.idle),
      percent(row.predicted.idle),
      row.stalenessMean.toFixed(2),
      row.predicted.stalenessMean.toFixed(2),
      row.generateOverTrain.toFixed(2),
      `${row.decodeMs.toFixed(1)} ms`,
      `${percent(row.reward.mean)} [${percent(row.reward.low)}, ${percent(row.reward.high)}]`,
    ]);
  const all = [[...heads, "gen/train", "decode", "held-out"], ...lines];
  const widths = all[0]?.map((_, i) => Math.max(...all.map((line) => (line[i] ?? "").length))) ?? [];
  const text = all.map((line) => line.map((cell, i) => cell.padStart(widths[i] ?? 0)).join("  "));
  const { asyncOverSync, multiplexOverSplit } = report(rows);
  if (asyncOverSync !== null) text.push(`asynchronous over synchronous ${asyncOverSync.toFixed(2)}`);
  if (multiplexOverSplit !== null) text.push(`multiplexed over split ${multiplexOverSplit.toFixed(2)}`);
  return text.join("\n");
}

function reported({ name, law, seed, measured, reward, predicted, bound, decodeMs }: Row): ReportedMode {
  const { episodesPerSecond, idle, stalenessMean, generateShare, trainShare } = measured;
  return {
    ...{ name, law, seed, episodesPerSecond, reward, idle, stalenessMean },
    predicted: {
      episodesPerSecond: predicted.episodesPerSecond,
      idle: predicted.idle.reduce((sum, one) => sum + one, 0) / predicted.idle.length,
      stalenessMean: predicted.stalenessMean,
    },
    bound: bound.episodesPerSecond,
    overBound: episodesPerSecond / bound.episodesPerSecond,
    generateOverTrain: generateShare / trainShare,
    decodeMs,
  };
}

function ratiosOf(rows: readonly Row[]): Ratios {
  const best = (names: RegExp, seed: number) => {
    const rates = rows.filter((row) => row.seed === seed && names.test(row.name));
    return Math.max(...rates.map(({ measured }) => measured.episodesPerSecond));
  };
  const ratio = (above: RegExp, below: RegExp): number | null => {
    const seeds = [...new Set(rows.map(({ seed }) => seed))];
    const ratios = seeds.map((seed) => best(above, seed) / best(below, seed)).filter((one) => one > 0 && one < 1e9);
    return ratios.length === 0 ? null : (ratios.sort((a, b) => a - b)[ratios.length >> 1] ?? null);
  };
  return {
    asyncOverSync: ratio(/^async/, /^sync$/),
    multiplexOverSplit: ratio(/shared|elastic/, /split/),
  };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
