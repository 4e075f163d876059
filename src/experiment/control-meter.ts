/** How free the control process is: it only routes, so its event loop should turn at once and its memory should not grow. */

import { monitorEventLoopDelay } from "node:perf_hooks";

/** How often the event loop is asked how late it is. */
const RESOLUTION_MS = 10;

export class ControlMeter implements Disposable {
  readonly #delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });

  constructor() {
    this.#delay.enable();
  }

  /**
   * `perf/control/lag_p50_ms`, `perf/control/lag_p99_ms`: how late a timer ran since the last call; what other processes took of
   * the processor counts as well. `perf/control/rss_mb`: resident memory now, in 10⁶ bytes.
   */
  take(): Record<string, number> {
    const late = (percentile: number) => this.#delay.percentile(percentile) / 1e6;
    const metrics = {
      "perf/control/lag_p50_ms": late(50),
      "perf/control/lag_p99_ms": late(99),
      "perf/control/rss_mb": process.memoryUsage.rss() / 1e6,
    };
    this.#delay.reset();
    return metrics;
  }

  [Symbol.dispose](): void {
    this.#delay.disable();
  }
}
