/** Recipes on the command line: their stages are runs in folders of one run directory, each from the policy of the one before. */

import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { parseExperiment } from "../config/load.ts";
import { defaultRunDir, defaultStorePath, prepareRunDir, prepareStorePath } from "../config/paths.ts";
import { type LoadedRecipe, loadRecipe, STAGE_VERBS, type StageVerb } from "../config/recipe.ts";
import { AleError } from "../core/errors.ts";
import type { RunExperiment } from "../experiment/api.ts";
import type { CommandLine } from "./command-line.ts";
import { printDryRun, type RunFlags, watchRun } from "./experiment-run.ts";
import { readStore } from "./stored-runs.ts";

const RECIPE_FILE = "recipe.json";

const RecipeSchema = z.object({
  v: z.literal(1),
  name: z.string(),
  stages: z.array(z.object({ verb: z.enum(STAGE_VERBS), folder: z.string(), toml: z.string() })),
});
type Recipe = z.infer<typeof RecipeSchema>;
type Stage = Recipe["stages"][number];

/** What stages write that the whole recipe came to, with its last one. */
const RESULTS = ["policy", "report.html"] as const;

export function isRecipeFolder(folder: string): boolean {
  return existsSync(join(folder, RECIPE_FILE));
}

/** Runs the experiment of these files if it has stages; tells whether it does. */
export async function startRecipe(
  cli: CommandLine,
  files: readonly string[],
  overrides: readonly string[],
  flags: RunFlags,
): Promise<boolean> {
  const recipe = await loadForModel(files, overrides);
  if (recipe === undefined) return false;
  if (flags.dryRun) {
    for (const { loaded } of recipe.stages) await printDryRun(cli, loaded, flags);
    return true;
  }
  const folder = prepareRunDir(flags.out ?? defaultRunDir(recipe.name, new Date()));
  writeFileSync(join(folder, RECIPE_FILE), `${JSON.stringify(recordOf(recipe))}\n`);
  await continueRecipe(cli, folder, flags);
  return true;
}

/** As `loadFromFlags`: limits that nobody set fit the kind of model that the first stage starts from. */
async function loadForModel(files: readonly string[], overrides: readonly string[]): Promise<LoadedRecipe | undefined> {
  const recipe = loadRecipe({ files, overrides });
  const first = recipe?.stages[0]?.loaded;
  if (first === undefined) return recipe;
  const { conversationSettings } = await import("../experiment/conversation-limits.ts");
  const settings = conversationSettings(first.experiment, first.changed);
  return settings.length === 0 ? recipe : loadRecipe({ files, overrides: [...settings, ...overrides] });
}

function recordOf({ name, stages }: LoadedRecipe): Recipe {
  const record = stages.map(({ verb, loaded }, i) => ({
    verb,
    folder: `${i + 1}-${loaded.experiment.name}`,
    toml: loaded.toml,
  }));
  return { v: 1, name, stages: record };
}

/** Goes on with the first stage that has not finished, to the end of the last. */
export async function continueRecipe(cli: CommandLine, path: string, flags: RunFlags): Promise<void> {
  const folder = resolve(path);
  const { name, stages } = readRecipe(folder);
  const storePath = prepareStorePath(flags.store ?? defaultStorePath(cli.env));
  let policy: string | undefined;
  for (const stage of stages) {
    await runStage(cli, { folder, storePath, stage, policy }, flags);
    policy = join(folder, stage.folder, "policy");
  }
  writeResults(folder, stages);
  const summaryPath = join(folder, "summary.json");
  if (flags.json)
    cli.printJson({ v: 1, type: "result", recipe: name, outDir: folder, status: "finished", summaryPath });
  else cli.print(`${"recipe".padEnd(20)} ${folder}`);
}

function readRecipe(folder: string): Recipe {
  const file = join(folder, RECIPE_FILE);
  try {
    return RecipeSchema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (cause) {
    throw new AleError("config", `${file} cannot be read as a recipe`, {
      hint: "start it again in another folder, or resume its last stage by the folder of that stage",
      cause,
    });
  }
}

async function runStage(
  cli: CommandLine,
  at: {
    readonly folder: string;
    readonly storePath: string;
    readonly stage: Stage;
    readonly policy: string | undefined;
  },
  flags: RunFlags,
): Promise<void> {
  const { storePath, stage, policy } = at;
  const outDir = join(at.folder, stage.folder);
  const run = await readStore(storePath, (store) => store.findRunByFolder(outDir));
  if (run?.status === "finished") return;
  // A folder without a run is what is left of a start that was killed.
  if (run === undefined) rmSync(outDir, { recursive: true, force: true });
  mkdirSync(outDir, { recursive: true });
  const from = policy === undefined ? [] : [`model.path=${policy}`];
  const loaded = parseExperiment(`stage ${stage.folder} of ${at.folder}`, stage.toml, from);
  const resumed = run === undefined ? {} : { resumeRunId: run.id };
  await watchRun(cli, loaded, { outDir, storePath, flags, ...resumed }, executorOf(stage.verb));
}

export function executorOf(verb: StageVerb): RunExperiment {
  if (verb === "sft") return async (options) => (await import("../experiment/sft.ts")).runSft(options);
  return async (options) => (await import("../experiment/run.ts")).runExperiment(options);
}

/** The last stage's policy, report and summary are the recipe's; the summary names what each stage came to. */
function writeResults(folder: string, stages: readonly Stage[]): void {
  const summaries = stages.map((stage) => ({
    verb: stage.verb,
    folder: stage.folder,
    ...JSON.parse(readFileSync(join(folder, stage.folder, "summary.json"), "utf8")),
  }));
  const { verb: _, folder: last, ...summary } = summaries.at(-1) ?? { verb: "", folder: "" };
  for (const name of RESULTS) {
    const source = join(folder, last, name);
    if (existsSync(source)) cpSync(source, join(folder, name), { recursive: true });
  }
  writeFileSync(join(folder, "summary.json"), `${JSON.stringify({ ...summary, stages: summaries }, null, 2)}\n`);
}
