/** What the engines of a run spent a step on, as metrics. */

import type { ContextStats } from "../policy/generation/contexts.ts";
import type { PoolStats } from "./engine-pool.ts";

/**
 * `perf/engine/<i>/…`: sampled and prefilled tokens per second of wall time; shares of the wall time spent training,
 * generating, waiting for other engines in an update (`sync`) and without work (`idle`), which add up to 1 less what
 * loading, saving and probing took; restarts since the run was started or resumed; peak of its memory so far, without what
 * the process has before it loads a model, and the peak that was expected. The largest of the peaks has verl's name, in GiB.
 *
 * `perf/kv/…`, over all engines: tokens of context prefilled, of those the ones that had been computed before and lost
 * (`reprefill`), tokens copied from other sequences instead (`reused`), idle sequences that lost their cache to others and
 * their tokens (`evictions`, `evicted`), tokens of closed sequences that made room (`dropped`), tokens thrown away because
 * newer weights were published (`outdated`); seconds spent on prefilling, on doing it again, and on copying.
 * @param throughput of the step, in tokens per second; none before the first.
 */
export function engineMetrics(engines: readonly PoolStats[], throughput?: number): Record<string, number> {
  const sum = (key: keyof ContextStats) => engines.reduce((total, { contexts }) => total + contexts[key], 0);
  const context = sum("prefillTokens") + sum("reusedTokens");
  return {
    ...perEngine(engines),
    ...(throughput !== undefined && { "perf/throughput_per_gpu": throughput / Math.max(1, engines.length) }),
    ...(context > 0 && { "perf/kv/prefix_cache_hit_rate": sum("reusedTokens") / context }),
    "perf/max_memory_allocated_gb": Math.max(0, ...engines.map(({ peakBytes }) => peakBytes)) / 2 ** 30,
    "perf/kv/prefill_tokens": sum("prefillTokens"),
    "perf/kv/reprefill_tokens": sum("reprefillTokens"),
    "perf/kv/reused_tokens": sum("reusedTokens"),
    "perf/kv/evictions": sum("evictions"),
    "perf/kv/evicted_tokens": sum("evictedTokens"),
    "perf/kv/dropped_tokens": sum("droppedTokens"),
    "perf/kv/outdated_tokens": sum("outdatedTokens"),
    "timing_s/kv/prefill": sum("prefillMs") / 1000,
    "timing_s/kv/reprefill": sum("reprefillMs") / 1000,
    "timing_s/kv/reuse": sum("reuseMs") / 1000,
  };
}

function perEngine(engines: readonly PoolStats[]): Record<string, number> {
  return Object.fromEntries(
    engines.flatMap((stats, i) => {
      const share = (ms: number) => (stats.wallMs > 0 ? ms / stats.wallMs : 0);
      const values = {
        tokens_per_second: share(stats.sampledTokens) * 1000,
        prefill_tokens_per_second: share(stats.contexts.prefillTokens) * 1000,
        train_share: share(stats.trainMs),
        generate_share: share(stats.generateMs),
        sync_share: share(stats.syncMs),
        idle_share: share(stats.idleMs),
        restarts: stats.restarts,
        peak_bytes: stats.peakBytes,
        predicted_bytes: stats.predictedBytes,
      };
      return Object.entries(values).map(([name, value]) => [`perf/engine/${i}/${name}`, value]);
    }),
  );
}
