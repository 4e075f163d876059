import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Command } from "commander";
import { differingKeys, keysOtherThan, type LoadedExperiment, parseExperiment } from "../config/load.ts";
import { AleError } from "../core/errors.ts";
import type { RunRecord } from "../store/records.ts";
import type { PanelHistory } from "../tui/panel-state.ts";
import { type CommandLine, examples } from "./command-line.ts";
import { watchRun } from "./experiment-run.ts";
import { continueRecipe, executorOf, isRecipeFolder } from "./recipe.ts";
import { findRun, noStore, readStore, storePathOf } from "./stored-runs.ts";

interface ResumeFlags {
  readonly store?: string;
  readonly serve?: boolean;
  readonly json?: boolean;
}

export function defineResume(command: Command, cli: CommandLine): void {
  command
    .argument("[run]", "id of a run, its beginning, or its run directory (default: the last run that did not finish)")
    .option("--store <file>", "database of runs (default: ale.db in ALE_HOME)")
    .option("--no-serve", "no dashboard while the run lasts")
    .option("--json", "events as JSON lines on stdout")
    .description(
      "Continue a run from its last checkpoint, with the settings it was started with: no step and no episode is lost " +
        "or counted twice.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale resume", "the last run that did not finish"],
        ["ale resume shell-1rxf", "by the beginning of its id"],
        ["ale resume runs/second", "by its run directory; of a recipe, on to its last stage"],
      ),
    )
    .action(async (name: string | undefined, flags: ResumeFlags) => {
      if (name !== undefined && isRecipeFolder(name)) return continueRecipe(cli, name, flags);
      const storePath = storePathOf(cli, flags.store);
      const run = name === undefined ? await lastUnfinished(storePath) : await findRun(storePath, name);
      refuseUnlessResumable(run);
      const loaded = await loadStored(storePath, run);
      const history = await readHistory(storePath, run);
      const target = { outDir: run.outDir, storePath, flags, resumeRunId: run.id, ...(history && { history }) };
      await watchRun(cli, loaded, target, executorOf(run.algorithm === "sft" ? "sft" : "run"));
      const recipe = dirname(run.outDir);
      if (isRecipeFolder(recipe)) await continueRecipe(cli, recipe, flags);
    });
}

/** The curves so far, so that the panel of a resumed run shows all of it. */
async function readHistory(storePath: string, run: RunRecord): Promise<PanelHistory | undefined> {
  const reward = "critic/rewards/mean";
  return readStore(storePath, async (store) => ({
    rewards: (await store.readMetrics(run.id, { names: [reward] })).map(({ step, metrics }) => ({
      x: step,
      y: metrics[reward] ?? Number.NaN,
    })),
    evaluations: await store.readEvaluations(run.id),
    workedMs: run.wallSeconds * 1000,
  }));
}

async function lastUnfinished(storePath: string): Promise<RunRecord> {
  const runs = await readStore(storePath, (store) => store.listRuns(1000));
  if (runs === undefined) throw noStore(storePath);
  const run = runs.find(({ status }) => status === "interrupted" || status === "failed");
  if (run !== undefined) return run;
  const running = runs.find(({ status }) => status === "running");
  if (running !== undefined) refuseUnlessResumable(running);
  throw new AleError(
    "usage",
    runs.length === 0 ? "there is no run yet" : "every run has finished; there is nothing to resume",
    { hint: "ale runs ls" },
  );
}

function refuseUnlessResumable(run: RunRecord): void {
  if (run.status === "running") {
    throw new AleError("usage", `run ${run.id} is running in another process`, {
      hint: "wait for it, or stop that process; ale runs ls shows when it ended",
    });
  }
  if (run.status === "finished") {
    throw new AleError("usage", `run ${run.id} has finished all its ${run.steps} steps`, {
      hint: `its results are in ${run.outDir}; to train longer start a new run from its policy: --model.path ${join(run.outDir, "policy")}`,
    });
  }
  if (!existsSync(run.outDir)) {
    throw new AleError("store", `the run directory of ${run.id} is gone: ${run.outDir}`, {
      hint: "its checkpoints were in there; put it back, or start a new run",
    });
  }
}

/** The settings the run was started with; refuses when its `config.toml` was edited since, naming the keys. */
async function loadStored(storePath: string, run: RunRecord): Promise<LoadedExperiment> {
  const toml = await readStore(storePath, (store) => store.readConfiguration(run.configHash));
  if (toml === undefined)
    throw new AleError("store", `the store has no configuration of run ${run.id}`, { hint: "start a new run" });
  const name = `configuration of run ${run.id}`;
  const loaded = parseExperiment(name, toml);
  if (loaded.hash !== run.configHash) {
    const keys = keysOtherThan(name, toml, loaded.experiment).join(", ");
    throw new AleError(
      "config",
      `run ${run.id} was made by ale ${run.aleVersion}, whose settings differ from this version's: ${keys}`,
      {
        hint: `resume it with ale ${run.aleVersion}, or start a new run`,
      },
    );
  }
  const file = join(run.outDir, "config.toml");
  if (!existsSync(file)) return loaded;
  const edited = parseExperiment(file, readFileSync(file, "utf8"));
  const keys = differingKeys(loaded.experiment, edited.experiment);
  if (keys.length === 0) return loaded;
  throw new AleError("config", `${file} differs from what run ${run.id} was started with: ${keys.join(", ")}`, {
    hint: `a run keeps its settings; set them back, or start a new run with ale run ${file}`,
  });
}
