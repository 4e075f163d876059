/**
 * Recipes: an experiment file with `[[stages]]` is several runs, one after the other, each from the policy of the one before.
 * A stage is a table of settings over those of the file, and the verb that runs it.
 */

import { z } from "zod";
import { AleError } from "../core/errors.ts";
import { type LoadedExperiment, type LoadOptions, readLayer, resolveLayers } from "./load.ts";
import type { Layer } from "./problems.ts";
import { isTable } from "./schema-tree.ts";

export const STAGE_VERBS = ["sft", "run"] as const;
export type StageVerb = (typeof STAGE_VERBS)[number];

export interface RecipeStage {
  readonly verb: StageVerb;
  readonly loaded: LoadedExperiment;
}

export interface LoadedRecipe {
  /** `name` of the file. */
  readonly name: string;
  readonly stages: readonly RecipeStage[];
}

/** Stages of a run are folders of its directory. */
const MAX_STAGES = 16;
const VerbSchema = z.enum(STAGE_VERBS);

/**
 * The stages of an experiment; `undefined` when no file has any. Command-line overrides apply to every stage.
 * @throws AleError("config") as `loadExperiment`, naming the stage.
 */
export function loadRecipe({ files, overrides = [] }: LoadOptions): LoadedRecipe | undefined {
  const layers = files.map(readLayer);
  const owner = layers.findLast(({ table }) => "stages" in table);
  if (owner === undefined) return undefined;
  const { stages } = owner.table;
  if (!Array.isArray(stages) || stages.length === 0 || stages.length > MAX_STAGES || !stages.every(isTable)) {
    throw new AleError("config", `${owner.name}: stages must be 1 to ${MAX_STAGES} tables, each below [[stages]]`, {
      hint: "see experiments/rome.toml",
    });
  }
  const base = layers.map(withoutStages);
  const { name } = resolveLayers(base, overrides).experiment;
  return { name, stages: stages.map((table, index) => resolveStage(base, owner, table, index, overrides)) };
}

function resolveStage(
  base: readonly Layer[],
  owner: Layer,
  { verb, ...table }: Record<string, unknown>,
  index: number,
  overrides: readonly string[],
): RecipeStage {
  const key = `stages.${index}`;
  const parsed = VerbSchema.safeParse(verb);
  if (!parsed.success) {
    const line = owner.lines.get(`${key}.verb`) ?? owner.lines.get(key);
    const where = line === undefined ? owner.name : `${owner.name}:${line}`;
    throw new AleError(
      "config",
      `${where}: ${key}.verb is ${JSON.stringify(verb)}; allowed: ${STAGE_VERBS.join(", ")}`,
      {
        hint: "say how the stage is run",
      },
    );
  }
  const lines = new Map(
    [...owner.lines].flatMap(([at, line]) => (at.startsWith(`${key}.`) ? [[at.slice(key.length + 1), line]] : [])),
  );
  return { verb: parsed.data, loaded: resolveLayers([...base, { name: owner.name, table, lines }], overrides) };
}

function withoutStages(layer: Layer): Layer {
  const { stages: _, ...table } = layer.table;
  return { ...layer, table };
}
