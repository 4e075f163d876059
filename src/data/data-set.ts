/**
 * A data set on disk: a suite of task folders, and beside them `trajectories/NAME.jsonl`, `rejected.jsonl` and the
 * datasheet. Any suite is one, also without those.
 */

import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import { makeFolder, writeTextFile } from "../export/files.ts";
import { openTaskSource, type TaskSource } from "../tasks/source.ts";
import { type Suite, suiteName, suiteOf } from "../tasks/suite.ts";
import { type Datasheet, emptySheet, readSheet } from "./datasheet.ts";
import { type Attempt, AttemptSchema, type Rejection } from "./records.ts";

export interface DataSet {
  readonly path: string;
  readonly source: TaskSource;
  readonly suite: Suite;
  readonly sheet: Datasheet;
  /** Of a task; empty where none were kept. */
  attempts(name: string): readonly Attempt[];
  /** Lines of `rejected.jsonl`. */
  readonly rejected: readonly Rejection[];
}

const MAX_ATTEMPTS_BYTES = 256 << 20;
const TRAJECTORIES = "trajectories";
const REJECTED = "rejected.jsonl";

/** @throws AleError("task") when the suite is wrong, AleError("usage") when what lies beside it is */
export function openDataSet(path: string): DataSet {
  const source = openTaskSource(path);
  const suite = suiteOf(source);
  const folder = resolve(path);
  return {
    path,
    source,
    suite,
    sheet: readSheet(folder) ?? emptySheet(suiteName(path)),
    attempts: (name) => readLines(join(folder, TRAJECTORIES, `${name}.jsonl`), (line) => AttemptSchema.parse(line)),
    rejected: readLines(join(folder, REJECTED), (line) => line as Rejection),
  };
}

function readLines<T>(path: string, parse: (line: unknown) => T): T[] {
  if (!existsSync(path)) return [];
  const text = readFileSync(path, "utf8");
  if (text.length > MAX_ATTEMPTS_BYTES) throw new AleError("usage", `${path} is too large`);
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line, i) => {
      try {
        return parse(JSON.parse(line));
      } catch (error) {
        throw new AleError("usage", `${path}:${i + 1}: ${errorMessage(error).split("\n")[0]}`);
      }
    });
}

export async function writeAttempts(folder: string, name: string, attempts: readonly Attempt[]): Promise<void> {
  makeFolder(join(folder, TRAJECTORIES));
  await writeTextFile(join(folder, TRAJECTORIES, `${name}.jsonl`), jsonLines(attempts));
}

export async function writeRejected(folder: string, rejected: readonly Rejection[]): Promise<void> {
  await writeTextFile(join(folder, REJECTED), jsonLines(rejected));
}

export function jsonLines(values: readonly unknown[]): string {
  return values.map((value) => `${JSON.stringify(value)}\n`).join("");
}

/** Makes the folder of a new data set. @throws AleError("usage") when it is in use */
export function prepareFolder(folder: string): void {
  makeFolder(folder);
  if (readdirSync(folder).length === 0) return;
  throw new AleError("usage", `${folder} is not empty`, { hint: "name a folder that does not exist yet" });
}

/** Writes a task's folder with `write`; it appears as a whole, in place of what was left there. */
export function placeTask(folder: string, name: string, write: (target: string) => void): void {
  const partial = join(folder, `.${name}.partial`);
  rmSync(partial, { recursive: true, force: true });
  write(partial);
  rmSync(join(folder, name), { recursive: true, force: true });
  renameSync(partial, join(folder, name));
}

/** Copies the folder of a task, a family's included, into another data set. */
export function copyTask({ source, suite }: DataSet, name: string, folder: string): void {
  const within = source.read("task.toml") === undefined ? name : "";
  const inside = (path: string) => (within === "" ? path : `${within}/${path}`);
  if (!suite.families.includes(name)) throw new AleError("internal", `there is no task ${name} to copy`);
  placeTask(folder, name, (target) => {
    for (const path of source.files(within)) {
      const file = source.read(inside(path));
      if (file === undefined) continue;
      mkdirSync(dirname(join(target, path)), { recursive: true });
      writeFileSync(join(target, path), file.content);
      chmodSync(join(target, path), file.executable ? 0o755 : 0o644);
    }
  });
}
