/** Task suites: a folder of task folders, or a single task folder. */

import { basename, resolve } from "node:path";
import { suggest } from "../config/suggest.ts";
import { AleError } from "../core/errors.ts";
import { hashKey, Rng } from "../core/rng.ts";
import type { Split, Task } from "../core/types.ts";
import type { TaskFamily } from "./folder.ts";
import { loadTaskFolder } from "./load.ts";
import { openTaskSource, type TaskSource } from "./source.ts";

/**
 * Instances of a suite in a fixed order: rotations through all families, each rotation shuffled, with new seeds in every
 * rotation. The position is the whole state, so a resumed run continues with the same tasks.
 */
export interface TaskSampler {
  at(position: number): Task;
}

/** A loaded suite. */
export interface Suite {
  readonly name: string;
  /** Names of its families (plain task folders are families of one instance), sorted. */
  readonly families: readonly string[];
  /** Throws `AleError("task")` when there is no family of that name. */
  family(name: string): TaskFamily;
  render(family: string, split: Split, seed: number): Task;
  /** How often a family is met, relative to the others. */
  weight(family: string): number;
  sampler(seed: number, split: Split): TaskSampler;
}

export interface LoadSuiteOptions {
  /** Use only these families. */
  readonly families?: readonly string[];
}

/** Seeds of instances are below this, so that they fit an int32 column. */
const SEED_LIMIT = 2 ** 31;

/**
 * Loads the suite or task folder at `path`; `tasks/shell` means the folder where there is one and the embedded suite
 * otherwise.
 *
 * @throws `AleError("task")` when nothing is there or a task folder is wrong
 */
export function loadSuite(path: string, options: LoadSuiteOptions = {}): Suite {
  return suiteOf(openTaskSource(path), options);
}

/** Name of the suite at `path`, as its tasks have it. */
export function suiteName(path: string): string {
  return basename(resolve(path));
}

/** Loads a suite from any source of files. */
export function suiteOf(source: TaskSource, options: LoadSuiteOptions = {}): Suite {
  const name = suiteName(source.name);
  const all = findTaskFolders(source).map((folder) => ({ folder, family: folder === "" ? name : basename(folder) }));
  if (all.length === 0) {
    throw new AleError("task", `${source.name} holds no task`, {
      hint: "a task is a folder with task.toml; a suite is a folder of such folders",
    });
  }
  const chosen = options.families === undefined ? all : choose(all, options.families, name);
  const families = new Map(
    chosen.map(({ folder, family }) => [family, loadTaskFolder(source, folder, name, family)] as const),
  );
  return new LoadedSuite(name, families);
}

function findTaskFolders(source: TaskSource): string[] {
  if (source.read("task.toml") !== undefined) return [""];
  return source.folders("").filter((folder) => source.read(`${folder}/task.toml`) !== undefined);
}

function choose<T extends { readonly family: string }>(
  all: readonly T[],
  wanted: readonly string[],
  suite: string,
): T[] {
  return [...new Set(wanted)].map((name) => {
    const found = all.find(({ family }) => family === name);
    if (found === undefined)
      throw unknownFamily(
        suite,
        name,
        all.map(({ family }) => family),
      );
    return found;
  });
}

function unknownFamily(suite: string, name: string, known: readonly string[]): AleError {
  const near = suggest(name, known);
  return new AleError("task", `suite ${suite} has no family ${JSON.stringify(name)}`, {
    hint: near === undefined ? `it has ${known.join(", ")}` : `did you mean ${near}?`,
  });
}

class LoadedSuite implements Suite {
  readonly name: string;
  readonly families: readonly string[];
  readonly #families: ReadonlyMap<string, TaskFamily>;

  constructor(name: string, families: ReadonlyMap<string, TaskFamily>) {
    this.name = name;
    this.families = [...families.keys()].sort();
    this.#families = families;
  }

  family(name: string): TaskFamily {
    const family = this.#families.get(name);
    if (family === undefined) throw unknownFamily(this.name, name, this.families);
    return family;
  }

  render(family: string, split: Split, seed: number): Task {
    return this.family(family).render(split, seed);
  }

  weight(): number {
    return 1;
  }

  sampler(seed: number, split: Split): TaskSampler {
    const key = `sampler/${seed}/${split}`;
    const [base] = hashKey(key);
    let rotation = -1;
    let order: readonly string[] = [];
    return {
      at: (position) => {
        const wanted = Math.floor(position / this.families.length);
        if (wanted !== rotation) {
          order = new Rng(`${key}/${wanted}`).shuffle(this.families);
          rotation = wanted;
        }
        return this.render(order[position % order.length] as string, split, (base + wanted) % SEED_LIMIT);
      },
    };
  }
}
