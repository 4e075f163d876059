/** How much memory the engines of a run took, beside what was predicted. */

import { parse as parseToml } from "smol-toml";
import type { MetricsRow } from "../store/records.ts";

export interface EngineMemory {
  readonly device: string;
  /** Null in a run that ended before its first step. */
  readonly predictedBytes: number | null;
  /** Most resident memory of the engine, less what its process had before a model was loaded. */
  readonly peakBytes: number | null;
}

/** One entry per device of the resolved configuration. */
export function engineMemory(configuration: string, metrics: readonly MetricsRow[]): readonly EngineMemory[] {
  const { engine } = parseToml(configuration) as { readonly engine?: { readonly devices?: readonly string[] } };
  const most = (name: string) => {
    const values = metrics.flatMap((row) => row.metrics[name] ?? []);
    return values.length === 0 ? null : Math.max(...values);
  };
  return (engine?.devices ?? []).map((device, i) => ({
    device,
    predictedBytes: most(`perf/engine/${i}/predicted_bytes`),
    peakBytes: most(`perf/engine/${i}/peak_bytes`),
  }));
}
