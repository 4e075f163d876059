/** What the page knows of the run it shows: read once, then kept current by events. */

import type { AleEvent, EpisodePhase, EventOf } from "../core/events.ts";
import type { EvaluationRecord, MetricsRow, RunRecord } from "../store/records.ts";

export const LIVE_PHASES = ["reset", "generate", "tool", "grade"] as const satisfies readonly EpisodePhase[];
export type LivePhase = (typeof LIVE_PHASES)[number];

export interface RunState {
  readonly run: RunRecord;
  readonly configuration: string;
  readonly metrics: readonly MetricsRow[];
  readonly evaluations: readonly EvaluationRecord[];
  /** Phase of each episode in flight in the process that serves this page. */
  readonly inFlight: ReadonlyMap<string, LivePhase>;
  readonly progress: EventOf<"progress"> | undefined;
  /** Episodes finished since the step began. */
  readonly finished: number;
  /** Alerts of the guards since the page was opened. */
  readonly alerts: number;
  /** Episodes the step collects. */
  readonly expected: number;
}

export function createState(
  run: RunRecord,
  configuration: string,
  metrics: readonly MetricsRow[],
  evaluations: readonly EvaluationRecord[],
): RunState {
  return {
    run,
    configuration,
    metrics,
    evaluations,
    inFlight: new Map(),
    progress: undefined,
    finished: 0,
    alerts: 0,
    expected: 0,
  };
}

/** The state after an event; the same object when nothing on the page changes. */
export function applyEvent(state: RunState, event: AleEvent): RunState {
  switch (event.type) {
    case "step.started":
    case "evaluation.started":
      return { ...state, finished: 0, expected: event.episodes };
    case "step.finished":
      return finishStep(state, event);
    case "evaluation.finished": {
      const { type: _, ...row } = event;
      const others = state.evaluations.filter((old) => !sameEvaluation(old, row));
      return { ...state, evaluations: [...others, row].sort((a, b) => a.step - b.step) };
    }
    case "episode.phase":
      return { ...state, inFlight: movePhase(state.inFlight, event.episodeId, event.phase) };
    case "episode.finished":
      return {
        ...state,
        finished: state.finished + 1,
        inFlight: movePhase(state.inFlight, event.episodeId, "finished"),
      };
    case "guard.alert":
      return { ...state, alerts: state.alerts + 1 };
    case "progress":
      return { ...state, progress: event };
    case "run.finished":
      return { ...state, run: { ...state.run, status: event.status }, inFlight: new Map(), progress: undefined };
    default:
      return state;
  }
}

function finishStep(state: RunState, event: EventOf<"step.finished">): RunState {
  const row = { step: event.step, metrics: event.metrics };
  const earlier = state.metrics.filter((old) => old.step < event.step);
  return {
    ...state,
    metrics: [...earlier, row],
    // A step that comes again, after a resumption, replaces what came after it.
    evaluations: state.evaluations.filter((old) => old.step <= event.step),
    run: { ...state.run, committedStep: event.step },
    finished: 0,
    expected: 0,
  };
}

type EvaluationKey = Pick<EvaluationRecord, "step" | "split" | "greedy">;

function sameEvaluation(a: EvaluationKey, b: EvaluationKey): boolean {
  return a.step === b.step && a.split === b.split && a.greedy === b.greedy;
}

function movePhase(
  inFlight: ReadonlyMap<string, LivePhase>,
  id: string,
  phase: EpisodePhase,
): ReadonlyMap<string, LivePhase> {
  const next = new Map(inFlight);
  if ((LIVE_PHASES as readonly string[]).includes(phase)) next.set(id, phase as LivePhase);
  else next.delete(id);
  return next;
}

/** The last value of a metric that has one. */
export function latest(metrics: readonly MetricsRow[], name: string): number | undefined {
  for (let i = metrics.length - 1; i >= 0; i--) {
    const value = metrics[i]?.metrics[name];
    if (typeof value === "number") return value;
  }
  return undefined;
}

/** Seconds to the end at the pace of the last steps; undefined for a run that has ended or not begun. */
export function secondsLeft({ run, metrics }: RunState): number | undefined {
  if (run.status !== "running") return undefined;
  const times = metrics.slice(-10).flatMap((row) => {
    const step = row.metrics["timing_s/step"];
    return typeof step === "number" ? [step + (row.metrics["timing_s/testing"] ?? 0)] : [];
  });
  if (times.length === 0) return undefined;
  const mean = times.reduce((sum, value) => sum + value, 0) / times.length;
  return mean * Math.max(0, run.steps - (run.committedStep ?? 0));
}
