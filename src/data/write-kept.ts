/** What stays of a data set becomes another one, with the history of both. */

import { suiteName } from "../tasks/suite.ts";
import { type DataSet, writeAttempts, writeRejected } from "./data-set.ts";
import { countRejections, datedStep, type SheetTask, writeSheet } from "./datasheet.ts";
import type { Attempt, Rejection } from "./records.ts";
import { hashFiles } from "./source-folder.ts";

/** A task that stays, with the attempts at it that do. */
export interface Kept {
  readonly name: string;
  readonly attempts: readonly Attempt[];
  /** Measured just now. */
  readonly passRates?: SheetTask["passRates"] | undefined;
}

/** Writes all but the task folders, which are there already. */
export async function writeKept(
  data: DataSet,
  folder: string,
  kept: readonly Kept[],
  rejected: readonly Rejection[],
  step: { readonly step: string; readonly settings: Readonly<Record<string, unknown>> },
): Promise<void> {
  for (const { name, attempts } of kept) if (attempts.length > 0) await writeAttempts(folder, name, attempts);
  const all = [...data.rejected, ...rejected];
  await writeRejected(folder, all);
  const known = new Map(data.sheet.tasks.map((task) => [task.name, task]));
  const tasks = kept.map(({ name, passRates }): SheetTask => {
    const before = known.get(name);
    return {
      ...(before ?? { name, hash: sourceHash(data, name) }),
      passRates: { ...before?.passRates, ...passRates },
    };
  });
  await writeSheet(folder, {
    ...data.sheet,
    name: suiteName(folder),
    steps: [...data.sheet.steps, datedStep({ ...step, kept: kept.length, dropped: rejected.length })],
    rejections: countRejections(all),
    tasks,
    attempts: kept.reduce((sum, { attempts }) => sum + attempts.length, 0),
  });
}

/** Sha256 (hex) of a task's folder as it lies there. */
function sourceHash({ source }: DataSet, name: string): string {
  const within = source.read("task.toml") === undefined ? name : "";
  return hashFiles(
    source.files(within).flatMap((path) => {
      const file = source.read(within === "" ? path : `${within}/${path}`);
      return file === undefined ? [] : [{ path, content: file.content, mode: file.executable ? 0o755 : 0o644 }];
    }),
  );
}
