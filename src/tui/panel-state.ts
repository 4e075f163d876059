/** What the live panel knows: events in, a plain state out. No terminal here, so that both can be tested. */

import type { EmittedEvent, EpisodePhase, EvaluationSummary, EventOf, RunStatus } from "../core/events.ts";

/** Phases of an episode in flight, in the order in which they come. */
export const LIVE_PHASES = ["reset", "generate", "tool", "grade"] as const satisfies readonly EpisodePhase[];
export type LivePhase = (typeof LIVE_PHASES)[number];

/** Episodes being collected for one purpose. */
export interface Collection {
  readonly label: string;
  readonly total: number;
  done: number;
}

/** Long work without training steps. */
export interface Stage {
  readonly name: string;
  readonly unit: string;
  readonly startedAt: number;
  done: number;
  total: number;
  metrics: Readonly<Record<string, number>>;
}

export interface PanelState {
  /** Milliseconds since 1970. */
  startedAt: number;
  /** What a resumed run had worked before, in ms. */
  readonly workedMs: number;
  now: number;
  run: EventOf<"run.started"> | undefined;
  url: string | undefined;
  /** Settings that differ from their defaults, as `key=value`. */
  readonly changed: readonly string[];
  readonly parityLimit: number | undefined;
  /** Last finished step and the metrics it gave. */
  step: number;
  metrics: Readonly<Record<string, number>>;
  /** Mean training reward per step. */
  readonly rewards: { readonly x: number; readonly y: number }[];
  readonly evaluations: EvaluationSummary[];
  readonly inFlight: Map<string, LivePhase>;
  collection: Collection | undefined;
  /** All episodes of the step are there and it is not finished: the update runs. */
  training: boolean;
  readonly stages: Stage[];
  /** Episodes that finished in the last seconds, for the live rates. */
  recent: { readonly at: number; readonly tokens: number }[];
  /** From where the pace of the steps is measured; work before the first step is no part of it. */
  paceFrom: { readonly step: number; readonly at: number } | undefined;
  lastStepAt: number;
  restarts: number;
  restartReason: string | undefined;
  /** Why all sandboxes were lost the last time, and how often that was. */
  launcher: { readonly restarts: number; readonly reason: string } | undefined;
  status: RunStatus;
  /** What the last line says, e.g. that the run is being saved. */
  message: string | undefined;
}

/** The curves of a run so far. */
export interface PanelHistory {
  readonly rewards: readonly { readonly x: number; readonly y: number }[];
  readonly evaluations: readonly EvaluationSummary[];
  /** Time its steps took. */
  readonly workedMs: number;
}

/** Seconds over which the live rates are averaged. */
const RATE_SECONDS = 10;
const MAX_CURVE_POINTS = 5000;

export function createPanelState(options: {
  readonly startedAt: number;
  readonly changed?: readonly string[];
  readonly parityLimit?: number;
  /** What a resumed run did before. */
  readonly history?: PanelHistory;
}): PanelState {
  return {
    startedAt: options.startedAt,
    workedMs: options.history?.workedMs ?? 0,
    now: options.startedAt,
    run: undefined,
    url: undefined,
    changed: options.changed ?? [],
    parityLimit: options.parityLimit,
    step: 0,
    metrics: {},
    rewards: [...(options.history?.rewards ?? [])],
    evaluations: [...(options.history?.evaluations ?? [])],
    inFlight: new Map(),
    collection: undefined,
    training: false,
    stages: [],
    recent: [],
    paceFrom: undefined,
    lastStepAt: options.startedAt,
    restarts: 0,
    restartReason: undefined,
    launcher: undefined,
    status: "running",
    message: undefined,
  };
}

/** Brings the state up to date with one event. */
export function applyEvent(state: PanelState, { event, at }: EmittedEvent): void {
  state.now = Math.max(state.now, at);
  switch (event.type) {
    case "run.started":
      state.run = event;
      state.step = event.resumedFrom ?? 0;
      break;
    case "service.listening":
      state.url = event.url;
      break;
    case "step.started":
      state.collection = { label: `step ${event.step}`, total: event.episodes, done: 0 };
      state.training = event.episodes === 0;
      state.paceFrom ??= { step: event.step - 1, at };
      break;
    case "step.finished":
      finishStep(state, event, at);
      break;
    case "evaluation.started": {
      const how = event.greedy ? "greedy" : "sampled";
      state.collection = { label: `evaluation of ${splitName(event.split)}, ${how}`, total: event.episodes, done: 0 };
      state.training = false;
      break;
    }
    case "evaluation.finished":
      state.evaluations.push(event);
      state.collection = undefined;
      break;
    case "episode.phase":
      if (event.phase === "finished" || event.phase === "queued") state.inFlight.delete(event.episodeId);
      else state.inFlight.set(event.episodeId, event.phase);
      break;
    case "episode.finished":
      finishEpisode(state, event, at);
      break;
    case "progress":
      updateStage(state, event, at);
      break;
    case "engine.restarted":
      state.restarts = event.restarts;
      state.restartReason = event.reason;
      break;
    case "launcher.restarted":
      state.launcher = event;
      break;
    case "run.finished":
      state.status = event.status;
      break;
    case "log":
      break;
  }
}

function finishStep(state: PanelState, event: EventOf<"step.finished">, at: number): void {
  state.step = event.step;
  state.metrics = event.metrics;
  state.training = false;
  state.collection = undefined;
  state.lastStepAt = at;
  if (event.step > 0) state.paceFrom ??= { step: event.step, at };
  const reward = event.metrics["critic/rewards/mean"];
  if (reward !== undefined) state.rewards.push({ x: event.step, y: reward });
  if (state.rewards.length > MAX_CURVE_POINTS) thin(state.rewards);
}

/** Keeps every second point: a curve has far fewer columns than this. */
function thin(points: { readonly x: number; readonly y: number }[]): void {
  const kept = points.filter((_, index) => index % 2 === 0);
  points.splice(0, points.length, ...kept);
}

function finishEpisode(state: PanelState, event: EventOf<"episode.finished">, at: number): void {
  state.inFlight.delete(event.episodeId);
  state.recent.push({ at, tokens: event.tokens });
  const oldest = at - RATE_SECONDS * 1000;
  if ((state.recent[0]?.at ?? at) < oldest) state.recent = state.recent.filter((episode) => episode.at >= oldest);
  const collection = state.collection;
  if (collection === undefined) return;
  collection.done++;
  if (collection.done >= collection.total && collection.label.startsWith("step ")) state.training = true;
}

function updateStage(state: PanelState, event: EventOf<"progress">, at: number): void {
  const stage = state.stages.find((candidate) => candidate.name === event.stage);
  const metrics = event.metrics ?? stage?.metrics ?? {};
  if (stage === undefined) {
    const { stage: name, unit, done, total } = event;
    state.stages.push({ name, unit, startedAt: at, done, total, metrics });
  } else {
    Object.assign(stage, { done: event.done, total: event.total, metrics });
  }
}

/** Episodes in flight per phase. */
export function countPhases(state: PanelState): Readonly<Record<LivePhase, number>> {
  const counts = { reset: 0, generate: 0, tool: 0, grade: 0 };
  for (const phase of state.inFlight.values()) counts[phase]++;
  return counts;
}

/** Tokens and episodes per second over the last seconds; `undefined` before the first episode. */
export function liveRates(state: PanelState): { readonly tokens: number; readonly episodes: number } | undefined {
  const since = state.now - RATE_SECONDS * 1000;
  const recent = state.recent.filter((episode) => episode.at >= since);
  if (recent.length === 0) return undefined;
  const seconds = Math.max(1, Math.min(RATE_SECONDS, (state.now - state.startedAt) / 1000));
  return {
    tokens: recent.reduce((sum, episode) => sum + episode.tokens, 0) / seconds,
    episodes: recent.length / seconds,
  };
}

/** Milliseconds to the last step, evaluations so far included; `undefined` before the first step is done. */
export function remainingMs(state: PanelState): number | undefined {
  const { run, paceFrom, lastStepAt, step } = state;
  if (run === undefined || paceFrom === undefined || step <= paceFrom.step) return undefined;
  const perStep = (lastStepAt - paceFrom.at) / (step - paceFrom.step);
  return Math.max(0, perStep * (run.steps - step) - (state.now - lastStepAt));
}

/** The latest evaluation of one kind. */
export function latestEvaluation(state: PanelState, split: string, greedy: boolean): EvaluationSummary | undefined {
  return state.evaluations.findLast((evaluation) => evaluation.split === split && evaluation.greedy === greedy);
}

export function splitName(split: string): string {
  return split === "heldout" ? "held-out" : split === "dev" ? "development" : "training";
}
