import { expect, test } from "bun:test";
import { loadExperiment } from "../../config/load.ts";
import { headline } from "./headline.ts";

const configurationOf = (...overrides: string[]) =>
  loadExperiment({ files: ["experiments/shell.toml"], overrides }).toml;
const evaluations = [0.4, 0.8, 0.9, 0.8].map((rate, i) => ({
  ...{ step: 20 * i, split: "heldout" as const, greedy: false, rate, n: 10, low: 0, high: 1, perFamily: {} },
}));
const shown = (configuration: string) => {
  const table = headline({ configuration, evaluations, metrics: [] });
  return table === null ? null : String(table).replace(/<[^>]+>/g, " ");
};

test("initial, peak and converged value stand beside the paper's on the shell suite alone", () => {
  const text = shown(configurationOf());
  // the parabola through 0.4, 0.8, 0.9, 0.8 by least squares has its vertex at step 41
  expect(text).toMatch(/held-out\s+40\.00 %\s+90\.00 %\s+91\.\d\d %\s+\+51\.\d\d/);
  expect(text).toMatch(/figure 1\s+41\.60 %\s+89\.83 %\s+87\.68 %\s+\+46\.08/);
  expect(shown(configurationOf("tasks.suite=tasks/fork"))).toBeNull();
  expect(shown("not a configuration")).toBeNull();
});
