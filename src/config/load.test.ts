import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { AleError } from "../core/errors.ts";
import { setEmbeddedExperiments } from "./embedded.ts";
import { ExperimentSchema } from "./experiment.ts";
import { differingKeys, keysOtherThan, type LoadedExperiment, loadExperiment, parseExperiment } from "./load.ts";
import { splitOverrides } from "./overrides.ts";
import { loadRecipe } from "./recipe.ts";
import { listSettings } from "./schema-tree.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ale-config-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => setEmbeddedExperiments({}));

function file(name: string, toml: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, toml);
  return path;
}

function load(toml: string, ...overrides: string[]): LoadedExperiment {
  return loadExperiment({ files: [file("x.toml", toml)], overrides });
}

const ALGORITHM_TYPES =
  '"grpo", "ppo", "reinforce", "rloo", "reinforce_plus_plus", "lite_ppo", "topr", "tis", "cispo", "gspo", "ipa", ' +
  '"gigpo", "step_reinforce", "kimi", "decoupled_ppo"';

/** Message of the error with the temporary folder cut off. */
function fail(work: () => unknown): { message: string; hint: string | undefined } {
  try {
    work();
  } catch (error) {
    if (!(error instanceof AleError)) throw error;
    expect(error.code).toBe("config");
    expect(error.exitCode).toBe(2);
    return { message: error.message.replaceAll(`${folder}/`, ""), hint: error.hint?.replaceAll(`${folder}/`, "") };
  }
  throw new Error("no error was thrown");
}

describe("layers", () => {
  test("no file gives the defaults and no changes", () => {
    const { experiment, changed } = loadExperiment({ files: [] });
    expect(experiment).toEqual(ExperimentSchema.parse({}));
    expect(changed).toEqual([]);
  });

  test("later files win: tables merge, arrays and scalars are replaced", () => {
    const first = file("a.toml", '[tasks]\nfamilies = ["cfg", "json"]\n[trainer]\nsteps = 7\nepochs = 2\n');
    const second = file("b.toml", '[tasks]\nfamilies = ["sum"]\n[trainer]\nsteps = 8\n');
    const { experiment } = loadExperiment({ files: [first, second], overrides: ["trainer.steps=9"] });
    expect(experiment.tasks.families).toEqual(["sum"]);
    expect(experiment.trainer.epochs).toBe(2);
    expect(experiment.trainer.steps).toBe(9);
  });

  test("another algorithm type replaces the table of the previous one", () => {
    const first = file("a.toml", '[algorithm]\ntype = "grpo"\nclip = 0.3\n');
    const second = file("b.toml", '[algorithm]\ntype = "reinforce"\n');
    expect(loadExperiment({ files: [first, second] }).experiment.algorithm).toEqual({
      type: "reinforce",
      baseline: "group",
    });
    expect(loadExperiment({ files: [first], overrides: ["algorithm.type=reinforce"] }).experiment.algorithm.type).toBe(
      "reinforce",
    );
  });

  test("a union without a type keeps the default type", () => {
    expect(load("[algorithm]\nclip = 0.3\n").experiment.algorithm).toEqual({
      type: "grpo",
      clip: 0.3,
      normalizeStd: true,
    });
  });

  test("what algorithms have in common stays when the type changes, the rest goes", () => {
    const first = file("a.toml", '[algorithm]\ntype = "grpo"\nclip = 0.3\nnormalizeStd = false\n');
    const { algorithm } = loadExperiment({ files: [first], overrides: ["algorithm.type=gspo"] }).experiment;
    expect(algorithm).toEqual({
      ...{ type: "gspo", clipLow: 0.03, clipHigh: 0.04, normalizeStd: false, aggregation: "seq-mean-token-mean" },
    });
  });

  test("an optional setting that is not set is no part of the hash", () => {
    expect(Object.keys(load("").experiment.algorithm)).toEqual(["type", "clip", "normalizeStd"]);
    expect(load("", "algorithm.clipHigh=0.28").hash).not.toBe(load("").hash);
  });

  test("changed settings name key, value and default", () => {
    expect(load('[algorithm]\ntype = "reinforce"\n', "trainer.steps=3").changed).toEqual([
      { key: "algorithm.type", value: "reinforce", default: "grpo" },
      { key: "trainer.steps", value: 3, default: 100 },
    ]);
  });
});

describe("overrides", () => {
  test.each([
    ["trainer.steps=20", (e: LoadedExperiment["experiment"]) => e.trainer.steps, 20],
    ["--optimizer.lr=1e-5", (e: LoadedExperiment["experiment"]) => e.optimizer.lr, 1e-5],
    ["service.enabled=false", (e: LoadedExperiment["experiment"]) => e.service.enabled, false],
    ["evaluation.greedy", (e: LoadedExperiment["experiment"]) => e.evaluation.greedy, true],
    ["tasks.suite=7", (e: LoadedExperiment["experiment"]) => e.tasks.suite, "7"],
    ["model.path=a=b", (e: LoadedExperiment["experiment"]) => e.model.path, "a=b"],
    ["tasks.families=cfg, json", (e: LoadedExperiment["experiment"]) => e.tasks.families, ["cfg", "json"]],
    ["optimizer.betas=[0.8, 0.9]", (e: LoadedExperiment["experiment"]) => e.optimizer.betas, [0.8, 0.9]],
    ["trainer.microBatchTokens=4_096", (e: LoadedExperiment["experiment"]) => e.trainer.microBatchTokens, 4096],
    ["sft.stages.0.steps=5", (e: LoadedExperiment["experiment"]) => e.sft.stages[0]?.steps, 5],
  ] as const)("%s", (override, read, expected) => {
    expect(read(loadExperiment({ files: [], overrides: [override] }).experiment) as unknown).toEqual(expected);
  });

  test("an element of an array of tables from a file", () => {
    const toml = "[[sft.stages]]\nsteps = 10\n[[sft.stages]]\nsteps = 20\n";
    const { experiment } = load(toml, "sft.stages.1.lr=0.5");
    expect(experiment.sft.stages.map((stage) => [stage.steps, stage.lr])).toEqual([
      [10, 2e-3],
      [20, 0.5],
    ]);
  });

  test("are taken out of an argument list, values and bare booleans alike", () => {
    const argv = [
      "a.toml",
      "--trainer.steps",
      "20",
      "--seed",
      "3",
      "--evaluation.greedy",
      "--optimizer.lr=1e-5",
      "--json",
    ];
    expect(splitOverrides(argv)).toEqual({
      rest: ["a.toml", "--seed", "3", "--json"],
      overrides: ["trainer.steps=20", "evaluation.greedy", "optimizer.lr=1e-5"],
    });
    expect(splitOverrides(["--evaluation.greedy", "false", "b.toml"]).overrides).toEqual(["evaluation.greedy=false"]);
    expect(splitOverrides(["--optimizer.lr", "-3", "--", "--a.b"])).toEqual({
      rest: ["--", "--a.b"],
      overrides: ["optimizer.lr=-3"],
    });
  });

  test.each([
    ["trainer.stpes=20", "--trainer.stpes: there is no setting trainer.stpes; did you mean --trainer.steps?"],
    ["run.lr=1", "--run.lr: there is no setting run.lr; did you mean --optimizer.lr?"],
    ["__proto__.steps=1", "--__proto__.steps: there is no setting __proto__.steps; did you mean --trainer.steps?"],
    ["trainer.steps", "--trainer.steps has no value; expected a whole number from 0 to 10000000"],
    ["trainer.steps=abc", '--trainer.steps is "abc"; expected a whole number from 0 to 10000000'],
    ["trainer.steps=-1", "--trainer.steps is -1; expected a whole number from 0 to 10000000"],
    ["trainer.steps=1e999", "--trainer.steps is Infinity; expected a whole number from 0 to 10000000"],
    ["evaluation.greedy=yes", '--evaluation.greedy is "yes"; expected true or false'],
    ["algorithm.type=dreams", `--algorithm.type is "dreams"; expected one of ${ALGORITHM_TYPES}`],
    [
      "optimizer.betas=[0.9",
      '--optimizer.betas: cannot read "[0.9"; expected an array of 2 elements, each a number from 0 to 0.9999999',
    ],
    ["sft.stages.3.steps=1", "--sft.stages.3.steps: index 3 of an array of 0"],
  ])("%s is refused", (override, message) => {
    const error = fail(() => loadExperiment({ files: [], overrides: [override] }));
    expect(error.message).toBe(message);
    expect(error.hint).toBeString();
  });
});

describe("bad files", () => {
  test.each([
    ["[trainer]\nstep = 3\n", "x.toml:2: unknown key trainer.step; did you mean trainer.steps?"],
    ["[rollout]\ngroup_size = 3\n", "x.toml:2: unknown key rollout.group_size; did you mean rollout.groupSize?"],
    ["lr = 3\n", "x.toml:1: unknown key lr; did you mean optimizer.lr?"],
    ["[trainer]\n# comment\nsteps = -1\n", "x.toml:3: trainer.steps is -1; expected a whole number from 0 to 10000000"],
    ["[trainer]\nsteps = 1.5\n", "x.toml:2: trainer.steps is 1.5; expected a whole number from 0 to 10000000"],
    ["trainer.parityLimit = -1\n", "x.toml:1: trainer.parityLimit is -1; expected a number of at least 0"],
    ["[optimizer]\nlr = nan\n", "x.toml:2: optimizer.lr is NaN; expected a number from 0 to 10"],
    ["seed = 2024-01-01\n", "x.toml:1: seed is the date 2024-01-01; expected a whole number from 0 to 2147483647"],
    ["name = 'A B'\n", 'x.toml:1: name is "A B"; expected lower-case letters, digits and dashes'],
    ["[model]\npath = 3\n", "x.toml:2: model.path is 3; expected text in quotes"],
    ["[sandbox]\ngrading = 'x'\n", 'x.toml:2: sandbox.grading is "x"; expected one of "clean", "stopped", "live"'],
    [
      "sft = { stages = [] }\n",
      "x.toml:1: sft.stages is the array []; expected an array of tables with 1 to 16 elements",
    ],
    [
      "[[sft.stages]]\nsteps = 1\n[[sft.stages]]\nlr = 1\nsteps = 0\n",
      "x.toml:5: sft.stages.1.steps is 0; expected a whole number from 1 to 1000000",
    ],
    ["algorithm = 'grpo'\n", `x.toml:1: algorithm is "grpo"; expected a table whose type is ${ALGORITHM_TYPES}`],
    ["[algorithm]\ntype = 'dreams'\n", `x.toml:2: algorithm.type is "dreams"; expected one of ${ALGORITHM_TYPES}`],
    [
      "[algorithm]\ntype = 'reinforce'\nclip = 0.1\n",
      'x.toml:3: algorithm.clip belongs to loss "ppo", and the loss is "vanilla"',
    ],
    [
      "[algorithm]\ntype = 'rloo'\nbaseline = 'batch'\n",
      'x.toml:3: unknown key algorithm.baseline: it belongs to type "reinforce", and algorithm.type is "rloo"',
    ],
    [
      "[[sft.stages]]\nobjective = 'dpo'\n",
      'x.toml:2: sft.stages.0.objective is "dpo", which needs the run whose groups are compared: set trajectories',
    ],
    [
      "[[sft.stages]]\ntrajectories = 'r'\nbeta = 1.0\n",
      'x.toml:3: sft.stages.0.beta belongs to objective "dpo" and "ipo"',
    ],
    [
      "[algorithm.correction]\nweight = 'token'\n[[algorithm.correction.filters]]\nlevel = 'chunk'\n",
      "x.toml:3: algorithm.correction.filters.0 has no bound: ratioLow, ratioHigh, differenceLow, differenceHigh",
    ],
    [
      "[algorithm]\nnormStd = 'running'\n[kl]\nin = 'reward'\n",
      'x.toml:4: kl.in is "reward"; with running normalisation only advantage "gae" can take it off the rewards',
    ],
    [
      "[[sft.stages]]\nobjective = 'distill'\n",
      'x.toml:1: sft.stages.0.teacher is missing, and objective "distill" needs one',
    ],
    ["[[sft.stages]]\ntopK = 4\n", 'x.toml:2: sft.stages.0.topK belongs to objective "distill"'],
    [
      "[[sft.stages]]\nobjective = 'distill'\nteacher = 'm'\ntrajectories = 'r'\nepisodes = 'all'\n",
      'x.toml:5: sft.stages.0.episodes is "all", and failures are not to be imitated: set weight = 1',
    ],
    [
      "[[sft.stages]]\ntrajectories = 'r'\nrevisit = {}\n",
      "x.toml:3: sft.stages.0.revisit collects episodes of its own: leave trajectories out",
    ],
    [
      "[distillation]\nteacher = 'http://h/v1'\n",
      "x.toml:1: distillation.server is missing: the teacher is an address; set server.model",
    ],
    [
      "[distillation]\nteacher = 'm'\nserver = { model = 'x' }\n",
      'x.toml:3: distillation.server belongs to a teacher that is an address, and "m" is none',
    ],
    ["[distillation]\nteacher = 'm'\ntopK = 4\n", 'x.toml:3: distillation.topK belongs to in = "loss"'],
    [
      "[distillation]\nteacher = 'm'\nin = 'loss'\nmix = 0.5\n",
      'x.toml:4: distillation.mix belongs to divergence "skewed" and "js"',
    ],
    [
      "[distillation]\nteacher = 'https://h/v1'\nserver = { model = 'x' }\n[rollout]\ntemperature = 0.7\n",
      "x.toml:5: rollout.temperature must be 1 with a teacher behind an address, which tells probabilities at 1",
    ],
    [
      "deterministic = true\n[distillation]\nteacher = 'https://h/v1'\nserver = { model = 'x' }\n",
      "x.toml:3: distillation.teacher is a server, which need not answer alike twice; deterministic must be false",
    ],
    ["[service]\nzzz = 1\n", "x.toml:2: unknown key service.zzz; service has enabled, port"],
  ])("%j", (toml, message) => {
    const error = fail(() => load(toml));
    expect(error.message).toBe(message);
    expect(error.hint).toContain("ale config show");
  });

  test("several problems are all listed, the last file that set a key is named", () => {
    const first = file("a.toml", "seed = -1\n[trainer]\nsteps = -1\n");
    const second = file("b.toml", "\n\n[trainer]\nsteps = -2\n");
    expect(fail(() => loadExperiment({ files: [first, second] })).message).toBe(
      "the experiment has 2 problems\n" +
        "  a.toml:1: seed is -1; expected a whole number from 0 to 2147483647\n" +
        "  b.toml:4: trainer.steps is -2; expected a whole number from 0 to 10000000",
    );
  });

  test("a syntax error shows line, column and the code", () => {
    const error = fail(() => load("[trainer]\nsteps = = 3\n"));
    expect(error.message).toStartWith("x.toml:2:9: not valid TOML: ");
    expect(error.message).toContain("2:  steps = = 3");
    expect(error.hint).toBe("correct line 2 of x.toml");
  });

  test("a missing file lists what comes with Ale", () => {
    setEmbeddedExperiments({ "experiments/shell.toml": "", "experiments/shell-sft.toml": "" });
    const error = fail(() => loadExperiment({ files: ["nope.toml"] }));
    expect(error.message).toBe("there is no experiment file nope.toml");
    expect(error.hint).toBe("these come with Ale: experiments/shell.toml, experiments/shell-sft.toml");
  });

  test("a folder, bytes that are no text, and a file that may not be read", () => {
    expect(fail(() => loadExperiment({ files: [folder] })).message).toEndWith("is a folder, not an experiment file");
    const binary = file("b.toml", new Uint8Array([0xff, 0xfe, 0x00]));
    expect(fail(() => loadExperiment({ files: [binary] })).message).toBe("b.toml is not UTF-8 text");
    if (process.getuid?.() === 0) return; // Root may read everything.
    const secret = file("s.toml", "");
    chmodSync(secret, 0);
    expect(fail(() => loadExperiment({ files: [secret] })).message).toBe("s.toml may not be read by this user");
  });
});

describe("any input", () => {
  const known = [
    ...listSettings().map((setting) => setting.key),
    "trainer",
    "sft.stages",
    "algorithm",
    "__proto__",
    "constructor",
  ];
  const value = fc.oneof(
    fc.constantFrom(
      "nan",
      "-inf",
      "1e400",
      "2024-01-01",
      "12:30:00",
      "[]",
      "{}",
      "[[1], {a = 1}]",
      "{type = 'grpo'}",
      "''",
    ),
    fc.integer().map(String),
    fc.double({ noDefaultInfinity: true, noNaN: true }).map((number) => number.toFixed(6)),
    fc.string().map((text) => JSON.stringify(text)),
    fc.boolean().map(String),
  );

  test("a file gives an experiment or a config error, nothing else", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...known), value, { maxKeys: 4 }), (settings) => {
        const toml = Object.entries(settings).map(([key, text]) => `${key} = ${text}\n`);
        try {
          parseExperiment("x.toml", toml.join(""));
        } catch (error) {
          expect(error).toBeInstanceOf(AleError);
          expect((error as AleError).code).toBe("config");
          expect((error as AleError).message).toMatch(/x\.toml/);
        }
      }),
      { numRuns: 60 },
    );
  });

  test("an override gives an experiment or a config error, nothing else", () => {
    fc.assert(
      fc.property(fc.constantFrom(...known), fc.oneof(value, fc.string()), (key, text) => {
        try {
          loadExperiment({ files: [], overrides: [`${key}=${text}`] });
        } catch (error) {
          expect(error).toBeInstanceOf(AleError);
          expect((error as AleError).message).toContain(key);
        }
      }),
      { numRuns: 60 },
    );
  });

  test("a key of the object prototype is an unknown key", () => {
    expect(fail(() => load("[__proto__]\nsteps = 1\n")).message).toContain("unknown key __proto__");
    expect(fail(() => load("constructor = 1\n")).message).toContain("unknown key constructor");
  });
});

describe("a run's own copy", () => {
  test("gives the same hash again, and names what was edited", () => {
    const loaded = load("seed = 4\n[tasks]\nfamilies = ['cfg']\n");
    expect(parseExperiment("config.toml", loaded.toml).hash).toBe(loaded.hash);
    const edited = parseExperiment(
      "config.toml",
      loaded.toml.replace("seed = 4", "seed = 5").replace("families", "# families"),
    );
    expect(differingKeys(loaded.experiment, edited.experiment)).toEqual(["seed", "tasks.families"]);
    // as another version wrote it: one setting unknown to it, all others the same
    const other = loaded.toml.replace(/^greedy = .*\n/m, "");
    expect(keysOtherThan("other", other, loaded.experiment)).toEqual(["evaluation.greedy"]);
    expect(keysOtherThan("own", loaded.toml, loaded.experiment)).toEqual([]);
  });
});

test("every experiment file of the repository loads", () => {
  const experiments = join(import.meta.dir, "..", "..", "experiments");
  const names = readdirSync(experiments).filter((name) => name.endsWith(".toml"));
  expect(names).toContain("shell.toml");
  for (const name of names) {
    const files = [join(experiments, name)];
    expect(loadRecipe({ files })?.name ?? loadExperiment({ files }).experiment.name).toBe(name.replace(".toml", ""));
  }
});

test("every example of settings in the docs loads", async () => {
  const docs = join(import.meta.dir, "..", "..", "docs");
  const pages = ["algorithms.md", ...[...new Bun.Glob("algorithms/*.md").scanSync({ cwd: docs })].sort()];
  const examples = await Promise.all(
    pages.map(async (page) => [...(await Bun.file(join(docs, page)).text()).matchAll(/```toml\n([\s\S]*?)```/g)]),
  );
  expect(examples.flat().length).toBeGreaterThan(3);
  for (const [, toml = ""] of examples.flat()) expect(load(toml).experiment.seed).toBe(1);
});

describe("embedded experiments", () => {
  test.each(["experiments/tiny.toml", "./experiments/tiny.toml", "tiny.toml", "tiny"])("%s", (path) => {
    setEmbeddedExperiments({ "tiny.toml": "seed = 42\n" });
    expect(loadExperiment({ files: [path] }).experiment.seed).toBe(42);
  });

  test("a file on disk wins", () => {
    setEmbeddedExperiments({ "x.toml": "seed = 42\n" });
    expect(load("seed = 7\n").experiment.seed).toBe(7);
  });
});
