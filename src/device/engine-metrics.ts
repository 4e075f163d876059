/** What the engines of a run spent a step on, as metrics. */

import type { PoolStats } from "./engine-pool.ts";

/**
 * `perf/engine/<i>/…`: sampled and prefilled tokens per second of wall time; shares of the wall time spent training,
 * generating, waiting for other engines in an update (`sync`) and without work (`idle`), which add up to 1 less what
 * loading, saving and probing took; restarts since the run was started or resumed.
 */
export function engineMetrics(engines: readonly PoolStats[]): Record<string, number> {
  return Object.fromEntries(
    engines.flatMap((stats, i) => {
      const share = (ms: number) => (stats.wallMs > 0 ? ms / stats.wallMs : 0);
      const values = {
        tokens_per_second: share(stats.sampledTokens) * 1000,
        prefill_tokens_per_second: share(stats.prefillTokens) * 1000,
        train_share: share(stats.trainMs),
        generate_share: share(stats.generateMs),
        sync_share: share(stats.syncMs),
        idle_share: share(stats.idleMs),
        restarts: stats.restarts,
      };
      return Object.entries(values).map(([name, value]) => [`perf/engine/${i}/${name}`, value]);
    }),
  );
}
