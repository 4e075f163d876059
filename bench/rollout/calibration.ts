/** What a real run says about the costs of its parts and the shapes of its episodes: what the simulator is given. */

import type { LatencyLaw } from "../../src/config/latency.ts";
import { eachSpan, type Span } from "../../src/core/timeline.ts";
import { latencyOf } from "../../src/rollout/latency.ts";
import type { EpisodeDetail } from "../../src/store/records.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { CONCURRENCY, EPISODE_MS, GROUP_SIZE, GROUPS, MICRO_BATCH_TOKENS, MINIBATCHES, SLOTS } from "./modes.ts";
import { isMeasured, onlyRun } from "./real-run.ts";
import type { Costs, EpisodeShape, Setup } from "./setup.ts";

const PREFILL_TOKENS = 512;

export type Calibration = Pick<Setup, "costs" | "workload">;

/** Costs and workload of the only run in a store, which ran under `law`; means over its measured steps. */
export async function calibrate(path: string, law: LatencyLaw): Promise<Calibration> {
  await using store = await openStore(path, { mode: "read" });
  const run = await onlyRun(store);
  const steps = (await store.readTimelineSteps(run.id)).filter((step) => isMeasured(step, run.steps));
  const episodes: EpisodeDetail[] = [];
  for await (const episode of store.episodes({ runId: run.id, purpose: "train" })) episodes.push(episode);
  const device = await deviceCosts(store, run.id, steps);
  const { trainedTokens, filtered, prefills, prefill, ...costs } = device;
  const acceptedShare = (steps.length * GROUPS) / (steps.length * GROUPS + filtered);
  const measured = episodes.filter(({ step }) => steps.includes(step));
  const tokens = measured.reduce((sum, one) => sum + one.tokens.ids.length, 0);
  const answers = measured.reduce((sum, one) => sum + shapeOf(one).length, 0) / acceptedShare;
  const phase = (name: "reset" | "grade") => median(episodes.map(({ phases }) => phases[name]));
  const commands = episodes.flatMap((episode) => toolMs(episode, law, run.id, run.seed) ?? []);
  return {
    costs: {
      ...costs,
      // one micro-operation may take several contexts
      prefill: { ...prefill, base: (prefill.base * prefills) / answers },
      ...{ reset: phase("reset"), tool: median(commands), grade: phase("grade") },
    },
    workload: {
      ...{ seed: run.seed, groups: GROUPS, groupSize: GROUP_SIZE, concurrency: CONCURRENCY, minibatches: MINIBATCHES },
      ...{ law, episodeMs: EPISODE_MS },
      acceptedShare,
      trainedShare: Math.min(1, trainedTokens / tokens),
      shapes: episodes.map(shapeOf),
    },
  };
}

type DeviceCosts = Omit<Costs, "reset" | "tool" | "grade"> & {
  readonly trainedTokens: number;
  /** Micro-operations of prefill. */
  readonly prefills: number;
  /** Groups that were thrown away and replaced. */
  readonly filtered: number;
};

async function deviceCosts(store: Store, runId: string, steps: readonly number[]): Promise<DeviceCosts> {
  const engines: Span[] = [];
  const control: Span[] = [];
  for (const step of steps) {
    for (const { name, spans } of await store.readTimeline(runId, step)) {
      if (name.startsWith("engine/")) engines.push(...eachSpan(spans));
      if (name === "control") control.push(...eachSpan(spans));
    }
  }
  const named = (name: string) => engines.filter((span) => span.name === name);
  const spent = (...names: string[]) => names.flatMap(named).reduce((sum, { begin, end }) => sum + end - begin, 0);
  const amount = (name: string) => named(name).reduce((sum, span) => sum + span.amount, 0);
  const metrics = (await store.readMetrics(runId)).filter(({ step }) => steps.includes(step));
  const total = (name: string) => metrics.reduce((sum, row) => sum + (row.metrics[name] ?? 0), 0);
  const [prefilled, reused] = [total("perf/kv/prefill_tokens"), total("perf/kv/reused_tokens")];
  const prefill = line(named("prefill"));
  const decode = line(named("decode"));
  return {
    decode: { base: decode.base, perRow: decode.slope },
    // what other sequences have computed already costs nothing
    prefill: { base: prefill.base, perToken: (prefill.slope * prefilled) / Math.max(1, prefilled + reused) },
    ...{ slots: SLOTS, prefillTokens: PREFILL_TOKENS, microBatchTokens: MICRO_BATCH_TOKENS },
    train: { base: 0, perToken: spent("forward", "backward") / amount("backward") },
    optimizer: spent("optimizer") / steps.length / MINIBATCHES,
    sync: spent("publish") / steps.length,
    step: gaps(control, steps),
    trainedTokens: amount("backward"),
    prefills: named("prefill").length,
    filtered: total("async/groups_filtered"),
  };
}

/** Mean time of a step in which it is neither collected for nor trained. */
function gaps(control: readonly Span[], steps: readonly number[]): number {
  const of = (name: string, step: number) => control.find((span) => span.name === name && span.amount === step);
  const between = steps.flatMap((step) => {
    const [collect, update, next] = [of("collect", step), of("update", step), of("collect", step + 1)];
    if (collect === undefined || update === undefined || next === undefined) return [];
    return [update.begin - collect.end + next.begin - update.end];
  });
  return between.length === 0 ? 0 : between.reduce((sum, ms) => sum + ms, 0) / between.length;
}

/** Least squares of durations over amounts; neither part is negative. */
function line(spans: readonly Span[]): { readonly base: number; readonly slope: number } {
  const n = Math.max(1, spans.length);
  const mean = (of: (span: Span) => number) => spans.reduce((sum, span) => sum + of(span), 0) / n;
  const duration = ({ begin, end }: Span) => end - begin;
  const [x, y] = [mean(({ amount }) => amount), mean(duration)];
  const variance = mean(({ amount }) => (amount - x) ** 2);
  const slope = variance === 0 ? 0 : mean((span) => (span.amount - x) * (duration(span) - y)) / variance;
  if (slope <= 0) return { base: y, slope: 0 };
  return slope * x <= y ? { base: y - slope * x, slope } : { base: 0, slope: y / x };
}

/** What a command of an episode took beyond its latency; undefined for episodes without any. */
function toolMs({ id, groupId, member, phases, turns }: EpisodeDetail, law: LatencyLaw, runId: string, seed: number) {
  const commands = turns.filter(({ command }) => command !== "");
  if (commands.length === 0 || !id.startsWith(runId)) return undefined;
  const key = { group: `${seed}${groupId.slice(runId.length)}`, member, members: GROUP_SIZE };
  const waited = commands.reduce((sum, { index }) => sum + latencyOf(law, key, index), 0);
  return Math.max(0, phases.tool - waited) / commands.length;
}

function shapeOf({ tokens, turns }: EpisodeDetail): EpisodeShape {
  const shape: { context: number; answer: number; command: boolean }[] = [];
  let context = 0;
  for (const [t, bit] of tokens.mask.entries()) {
    if (bit === 0) {
      context++;
      continue;
    }
    const turn = tokens.turnIds[t] as number;
    if (shape[turn] === undefined) {
      const command = turns.some((one) => one.index === turn && one.command !== "");
      shape[turn] = { context, answer: 0, command };
      context = 0;
    }
    (shape[turn] as { answer: number }).answer++;
  }
  return shape.filter((turn) => turn !== undefined);
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}
