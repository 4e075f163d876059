/** Everything the report shows, read from the store. */

import { eachSpan, type Spans } from "../../core/timeline.ts";
import type { EpisodeDetail, EvaluationRecord, MetricsRow, RunRecord } from "../../store/records.ts";
import type { EpisodePurpose } from "../../store/schema.ts";
import type { Store } from "../../store/store.ts";
import type { RunSummary } from "../summary.ts";
import { type ForkTree, readForkTrees } from "./forks.ts";
import { GANTT_STEPS, type StepTimeline } from "./gantt.ts";

export interface SampleEpisodes {
  /** `first` or `last`. */
  readonly when: "first" | "last";
  readonly step: number;
  readonly solved: readonly EpisodeDetail[];
  readonly failed: readonly EpisodeDetail[];
}

export interface ReportData {
  readonly run: RunRecord;
  readonly summary: RunSummary;
  readonly configuration: string;
  readonly metrics: readonly MetricsRow[];
  readonly evaluations: readonly EvaluationRecord[];
  readonly samples: readonly SampleEpisodes[];
  readonly forks: readonly ForkTree[];
  /** Of the newest steps that collected episodes and whose timeline is kept, in order. */
  readonly timelines: readonly StepTimeline[];
}

/** Episodes of each kind to show. */
const SAMPLES = 3;

export async function readReportData(store: Store, run: RunRecord, summary: RunSummary): Promise<ReportData> {
  const evaluations = await store.readEvaluations(run.id);
  const metrics = await store.readMetrics(run.id);
  return {
    run,
    summary,
    configuration: (await store.readConfiguration(run.configHash)) ?? "",
    metrics,
    evaluations,
    samples: await readSamples(store, run, evaluations),
    forks: await readForkTrees(store, run, metrics),
    timelines: await readNewestTimelines(store, run.id),
  };
}

async function readNewestTimelines(store: Store, runId: string): Promise<StepTimeline[]> {
  const found: StepTimeline[] = [];
  for (const step of (await store.readTimelineSteps(runId)).reverse()) {
    const tracks = await store.readTimeline(runId, step);
    if (tracks.some(({ name, spans }) => name === "control" && hasSpan(spans, "collect"))) {
      found.unshift({ step, tracks });
    }
    if (found.length === GANTT_STEPS) break;
  }
  return found;
}

function hasSpan(spans: Spans, wanted: string): boolean {
  for (const { name } of eachSpan(spans)) if (name === wanted) return true;
  return false;
}

/** From the first and last evaluation, or, where evaluations stored no episodes, the first and last training step. */
async function readSamples(
  store: Store,
  run: RunRecord,
  evaluations: readonly EvaluationRecord[],
): Promise<SampleEpisodes[]> {
  const evaluated = evaluations.map((row) => row.step);
  const fromEvaluations = await samplesAt(store, run, [Math.min(...evaluated), Math.max(...evaluated)], "eval");
  if (fromEvaluations.length > 0) return fromEvaluations;
  return samplesAt(store, run, [1, run.committedStep ?? 1], "train");
}

async function samplesAt(
  store: Store,
  run: RunRecord,
  [first, last]: readonly [number, number],
  purpose: EpisodePurpose,
): Promise<SampleEpisodes[]> {
  const steps =
    first === last
      ? ([["last", last]] as const)
      : ([
          ["first", first],
          ["last", last],
        ] as const);
  const samples: SampleEpisodes[] = [];
  for (const [when, step] of steps) {
    if (!Number.isFinite(step)) continue;
    const solved = await pick(store, run.id, step, purpose, true);
    const failed = await pick(store, run.id, step, purpose, false);
    if (solved.length + failed.length > 0) samples.push({ when, step, solved, failed });
  }
  return samples;
}

/** A few episodes, of different families while there are some. */
async function pick(
  store: Store,
  runId: string,
  step: number,
  purpose: EpisodePurpose,
  solved: boolean,
): Promise<EpisodeDetail[]> {
  // Of evaluations, those on instances that chose nothing.
  const split = purpose === "eval" ? { split: "heldout" as const } : {};
  const { episodes } = await store.readEpisodes({ runId, step, purpose, solved, ...split }, { limit: 400 });
  const families = new Set<string>();
  const distinct = episodes.filter((episode) => families.size !== families.add(episode.family).size);
  const others = episodes.filter((episode) => !distinct.includes(episode));
  const chosen = [...distinct, ...others].slice(0, SAMPLES);
  const details = await Promise.all(chosen.map((episode) => store.readEpisode(episode.id)));
  return details.filter((detail) => detail !== undefined);
}
