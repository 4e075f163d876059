import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { parse } from "smol-toml";
import { ExperimentSchema } from "./experiment.ts";
import { configHash, loadExperiment } from "./load.ts";
import { stringifyExperiment } from "./resolved-toml.ts";
import { experimentJsonSchema, listSettings } from "./schema-tree.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-resolved-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function load(toml: string) {
  const file = join(folder, "x.toml");
  writeFileSync(file, toml);
  return loadExperiment({ files: [file] });
}

describe("resolved experiment", () => {
  test("the TOML parses to the same experiment and says what each key means", () => {
    fc.assert(
      fc.property(
        fc.record({
          seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
          suite: fc.string(),
          lr: fc.double({ min: 0, max: 10, noNaN: true }),
          families: fc.option(fc.array(fc.string(), { maxLength: 3 }), { nil: undefined }),
          stages: fc.array(fc.record({ steps: fc.integer({ min: 1, max: 1000 }) }), { minLength: 1, maxLength: 3 }),
          algorithm: fc.constantFrom(
            ...(
              ["ppo", "reinforce", "rloo", "lite_ppo", "topr", "tis", "cispo", "gspo", "ipa", "gigpo", "kimi"] as const
            ).map((type) => ({
              type,
            })),
            { type: "grpo" as const, clipHigh: 0.28, dualClip: 3, aggregation: "chunk-mean" as const },
            {
              type: "decoupled_ppo" as const,
              advantage: "ipa" as const,
              correction: { weight: "chunk" as const, filters: [{ level: "token" as const, ratioHigh: 2 }] },
            },
          ),
        }),
        ({ seed, suite, lr, families, stages, algorithm }) => {
          const experiment = ExperimentSchema.parse({
            seed,
            tasks: { suite, families },
            optimizer: { lr },
            sft: { stages },
            algorithm,
          });
          const again = ExperimentSchema.parse(parse(stringifyExperiment(experiment)));
          expect(again).toEqual(experiment);
          expect(configHash(again)).toBe(configHash(experiment));
        },
      ),
      { numRuns: 25 },
    );
    expect(load("").toml).toContain("steps = 100              # Training steps; 0 to 10000000");
  });

  test("what an algorithm leaves open is shown with the value it comes to, what it does not read is not shown", () => {
    const { toml } = load("[algorithm]\ntype = 'lite_ppo'\n");
    expect(toml).toContain('# normStd = "batch"');
    expect(toml).toContain('# loss = "ppo"');
    expect(toml).not.toContain("lambda");
    expect(load("[algorithm]\ntype = 'decoupled_ppo'\n").toml).toContain('# correction = { weight = "token" }');
  });

  test("the hash ignores order and comments and notices every value", () => {
    const hash = load("seed = 2\n[trainer]\nsteps = 5\n").hash;
    expect(hash).toMatch(/^[0-9a-f]{64}$/);
    expect(load("trainer.steps = 5 # five\nseed = 2\n").hash).toBe(hash);
    expect(load("seed = 3\n[trainer]\nsteps = 5\n").hash).not.toBe(hash);
  });

  test("the JSON schema has type, default, bounds and description of every setting", () => {
    expect(experimentJsonSchema().properties?.trainer?.properties?.steps).toEqual({
      type: "integer",
      default: 100,
      minimum: 0,
      maximum: 10_000_000,
      description: "Training steps",
    });
    expect(listSettings().map((setting) => setting.key)).toContain("algorithm.baseline");
  });
});
