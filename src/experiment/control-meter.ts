/** How free the control process is: it only routes, so its event loop should turn at once and its memory should not grow. */

import { createHistogram, monitorEventLoopDelay } from "node:perf_hooks";

/** How often the event loop is asked how late it is. */
const RESOLUTION_MS = 10;

export class ControlMeter implements Disposable {
  /** Nanoseconds that a timer ran late. */
  readonly #lag = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  /** Nanoseconds of the processor that this thread took between two looks. */
  readonly #busy = createHistogram();
  readonly #timer: Timer;
  #cpuMicros = cpuMicros();

  constructor() {
    this.#lag.enable();
    this.#timer = setInterval(() => this.#look(), RESOLUTION_MS);
    this.#timer.unref();
  }

  /**
   * Since the last call: how late a timer ran (`perf/control/lag_p50_ms`, `perf/control/lag_p99_ms`), which other programs on
   * the machine add to, and what this thread computed between two looks 10 ms apart (`perf/control/busy_p99_ms`), which they do
   * not: where they leave it a core, it is at most so late. `perf/control/rss_mb`: resident memory now, in 10⁶ bytes.
   */
  take(): Record<string, number> {
    const metrics = {
      "perf/control/lag_p50_ms": this.#lag.percentile(50) / 1e6,
      "perf/control/lag_p99_ms": this.#lag.percentile(99) / 1e6,
      "perf/control/busy_p99_ms": this.#busy.percentile(99) / 1e6,
      "perf/control/rss_mb": process.memoryUsage.rss() / 1e6,
    };
    this.#lag.reset();
    this.#busy.reset();
    return metrics;
  }

  [Symbol.dispose](): void {
    this.#lag.disable();
    clearInterval(this.#timer);
  }

  #look(): void {
    const now = cpuMicros();
    this.#busy.record(Math.max(1, Math.round(1000 * (now - this.#cpuMicros))));
    this.#cpuMicros = now;
  }
}

function cpuMicros(): number {
  const { user, system } = process.threadCpuUsage();
  return user + system;
}
