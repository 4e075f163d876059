/** Names of environments: `suite`, `suite/family`, `suite/family/split` or `suite/family/split/seed`. */

import { AleError } from "../../core/errors.ts";
import { SPLITS, type Split, type Task } from "../../core/types.ts";
import { loadSuite, type Suite } from "../../tasks/suite.ts";

/** The instance that a seed stands for. */
export type RenderTask = (seed: number) => Task;

const DEFAULT_SPLIT: Split = "train";

/**
 * A suite is the name of one that comes with Ale, or a folder; of a suite without a family, the seed chooses that, too.
 * @throws AleError("task") when there is none.
 */
export function parseEnvironmentId(id: string): RenderTask {
  const parts = id.split("/");
  let refusal: unknown;
  for (let cut = Math.max(1, parts.length - 3); cut <= parts.length; cut++) {
    try {
      const suite = tryLoad(parts.slice(0, cut).join("/"));
      if (suite !== undefined) return renderer(id, suite, parts.slice(cut));
    } catch (error) {
      // Folders above a suite may hold tasks, too, or what is none: what follows may belong to the name of the suite.
      refusal ??= error;
    }
  }
  throw (
    refusal ??
    new AleError("task", `there is no environment ${JSON.stringify(id)}`, {
      hint: "suite/family, as in shell/cfg; ale tasks ls lists them",
    })
  );
}

function tryLoad(path: string): Suite | undefined {
  try {
    return loadSuite(path);
  } catch (error) {
    // A suite that is there and not right is an error; one that is not there may be the beginning of a longer name.
    if (error instanceof AleError && /there is no task folder|holds no task/.test(error.message)) return undefined;
    throw error;
  }
}

function renderer(id: string, suite: Suite, rest: readonly string[]): RenderTask {
  const [family, splitName = DEFAULT_SPLIT, seedText] = rest;
  const split = SPLITS.find((name) => name === splitName);
  if (split === undefined || (seedText !== undefined && !/^\d{1,9}$/.test(seedText)))
    throw new AleError(
      "task",
      `environment ${JSON.stringify(id)}: after the family come ${SPLITS.join(", ")} and a number`,
      {
        hint: `${suite.name}/${family}/${DEFAULT_SPLIT}/7`,
      },
    );
  if (family !== undefined) suite.family(family); // says what there is instead
  const chosen = (seed: number) => family ?? suite.families[seed % suite.families.length] ?? "";
  return (seed) => suite.render(chosen(seed), split, seedText === undefined ? seed : Number(seedText));
}
