import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadExperiment } from "./load.ts";
import { loadRecipe } from "./recipe.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-recipe-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
function file(toml: string): string {
  const path = join(folder, `${count++}.toml`);
  writeFileSync(path, toml);
  return path;
}

const RECIPE = `name = "two"
seed = 7

[rollout]
maxTurns = 9

[[stages]]
verb = "sft"
name = "first"

[[stages.sft.stages]]
steps = 3

[[stages]]
verb = "run"

[stages.trainer]
steps = 5
`;

test("a stage's settings lie over those of the file, and the command line's over both", () => {
  const recipe = loadRecipe({ files: [file(RECIPE)], overrides: ["trainer.steps=6"] });
  expect(recipe?.name).toBe("two");
  expect(recipe?.stages.map(({ verb }) => verb)).toEqual(["sft", "run"]);
  const [first, second] = (recipe?.stages ?? []).map(({ loaded }) => loaded.experiment);
  expect(first).toMatchObject({ name: "first", seed: 7, rollout: { maxTurns: 9 }, sft: { stages: [{ steps: 3 }] } });
  expect(second).toMatchObject({ name: "two", seed: 7, rollout: { maxTurns: 9 }, trainer: { steps: 6 } });
});

test("an experiment without stages is no recipe", () => {
  expect(loadRecipe({ files: [file("seed = 1\n")] })).toBeUndefined();
});

test("what takes one experiment refuses a recipe and says what runs it", () => {
  const path = file(RECIPE);
  expect(() => loadExperiment({ files: [path] })).toThrow(`${path} has stages: it is a recipe of several runs`);
});

test("what is wrong in a stage is named with its line", () => {
  const path = file(RECIPE.replace("steps = 5", "steps = -5"));
  expect(() => loadRecipe({ files: [path] })).toThrow(`${path}:18: trainer.steps`);
  const verbless = file(RECIPE.replace('verb = "run"\n', ""));
  expect(() => loadRecipe({ files: [verbless] })).toThrow("stages.1.verb is undefined; allowed: sft, run");
  expect(() => loadRecipe({ files: [file("stages = 3\n")] })).toThrow("stages must be 1 to 16 tables");
});
