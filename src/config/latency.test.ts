import { expect, test } from "bun:test";
import { loadExperiment, parseExperiment } from "./load.ts";
import { stringifyExperiment } from "./resolved-toml.ts";

const load = (...overrides: string[]) => loadExperiment({ files: [], overrides }).experiment;

test("without the table nothing is late; with it every law has its own settings, by file and by override", () => {
  expect(load().rollout).not.toHaveProperty("latency");
  const law = load("rollout.latency.type=pareto", "rollout.latency.fromMs=50", "rollout.latency.stragglers=0.02");
  expect(law.rollout.latency).toEqual({
    ...{ type: "pareto", fromMs: 50, alpha: 1.5 },
    ...{ stragglers: 0.02, stragglersPerGroup: 0, factor: 20 },
  });
  expect(parseExperiment("x.toml", stringifyExperiment(law)).experiment).toEqual(law);
});

test("a setting of another law is refused by name", () => {
  expect(() => load("rollout.latency.type=constant", "rollout.latency.alpha=2")).toThrow(
    'rollout.latency.alpha: it belongs to type "pareto", and rollout.latency.type is "constant"',
  );
  expect(() => load("rollout.latency.medianMs=50")).toThrow(
    '--rollout.latency.medianMs: rollout.latency.type is missing; expected one of "lognormal", "pareto", "constant"',
  );
  expect(() => load("rollout.latency.type=normal")).toThrow('"lognormal", "pareto", "constant"');
  expect(() => load("rollout.latency.type=lognormal", "rollout.latency.factor=0.5")).toThrow("from 1 to 10000");
});
