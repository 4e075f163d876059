/** The laws of latency that measurements are made under (`docs/throughput.md`). */

import type { LatencyLaw } from "../../src/config/latency.ts";

export type LawName = "A" | "B" | "C";

const NONE = { stragglers: 0, stragglersPerGroup: 0, factor: 20 };

export const LAWS: Readonly<Record<LawName, LatencyLaw>> = {
  A: { type: "lognormal", medianMs: 100, sigma: 1, ...NONE, stragglers: 0.02 },
  B: { type: "pareto", fromMs: 50, alpha: 1.5, ...NONE },
  C: { type: "constant", ms: 100, ...NONE, stragglersPerGroup: 1 },
};
