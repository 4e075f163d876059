/** Episodes outlive what they run on: engines that die, sandboxes that cannot be had for a moment. */

import { MACHINE_FAULTS, type Trajectory } from "../core/types.ts";
import { beginWait } from "../core/waits.ts";
import { EngineLost } from "../device/engine-client.ts";
import { type EpisodeContext, type EpisodePlan, runEpisode } from "./episode.ts";
import type { MachineHealth } from "./health.ts";
import type { Gate } from "./limiter.ts";

export interface Persistence {
  /** Bounds the episodes in flight; one that pauses is not among them. */
  readonly limiter: Gate;
  /** Times an episode is tried again after the machine failed under it. */
  readonly retries: number;
  /** Hears of every outcome but the first `FORGIVEN` failures where another try follows. */
  readonly health?: MachineHealth;
  readonly onRetry?: () => void;
}

/** Times an episode is started again after the engine died under it. */
const MAX_ATTEMPTS = 4;
/** A launcher that is killed, and the next one too, fail all episodes in flight and say nothing about the machine. */
const FORGIVEN = 2;
/** Pause before an episode is tried again; doubled each time. */
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 60_000;

/** Runs an episode, again with growing pauses while the machine fails. Rejects when `context.signal` is aborted. */
export async function runPersistently(
  plan: EpisodePlan,
  context: EpisodeContext,
  { limiter, retries, health, onRetry }: Persistence,
): Promise<Trajectory> {
  for (let attempt = 0; ; attempt++) {
    const trajectory = await limiter.run(() => withRestarts(plan, context));
    const isLast = attempt >= retries || !MACHINE_FAULTS.has(trajectory.stopReason);
    if (isLast || attempt >= FORGIVEN) health?.record(trajectory);
    if (isLast) return trajectory;
    onRetry?.();
    const pause = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt);
    const why = trajectory.error ?? trajectory.stopReason;
    await sleep(pause, `another try after "${why}"`, plan.episodeId, context.signal);
  }
}

async function withRestarts(plan: EpisodePlan, context: EpisodeContext): Promise<Trajectory> {
  for (let attempt = 1; ; attempt++) {
    context.signal.throwIfAborted();
    try {
      return await runEpisode(plan, context);
    } catch (error) {
      if (!(error instanceof EngineLost) || attempt >= MAX_ATTEMPTS) throw error;
    }
  }
}

/** Rejects with the signal's reason when it is aborted. */
async function sleep(ms: number, forWhat: string, who: string, signal: AbortSignal): Promise<void> {
  const endWait = beginWait(who, forWhat, ms);
  await new Promise<void>((resolve) => {
    const onEnd = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onEnd);
      resolve();
    };
    const timer = setTimeout(onEnd, ms);
    signal.addEventListener("abort", onEnd, { once: true });
    if (signal.aborted) onEnd();
  });
  endWait();
  signal.throwIfAborted();
}
