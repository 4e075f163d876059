/** The two kinds of runs that are killed. */

import type { Series } from "./driver.ts";

const SHAPE = { steps: 6, groups: 3, groupSize: 4 };

export const SERIES: readonly Series[] = [
  {
    name: "asynchronous",
    settings: ["--async.ratio", "1", "--engine.devices", "cpu,cpu", "--engine.threads", "1"],
    shape: { ...SHAPE, bound: 1 },
    exact: false,
  },
  {
    name: "deterministic",
    settings: ["--deterministic", "--engine.threads", "1"],
    shape: { ...SHAPE, bound: 0 },
    exact: true,
  },
];
