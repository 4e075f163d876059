/** Leaves tasks out that a held-out suite has too. */

import type { Task } from "../core/types.ts";
import { writeTextFile } from "../export/files.ts";
import type { Suite } from "../tasks/suite.ts";
import { copyTask, type DataSet, jsonLines, prepareFolder } from "./data-set.ts";
import { HeldOut, type Overlap } from "./overlap.ts";
import type { Rejection } from "./records.ts";
import { type Kept, writeKept } from "./write-kept.ts";

export interface DecontaminateSettings {
  readonly folder: string;
  /** Words per n-gram. */
  readonly n: number;
  /** Share of a part's n-grams from which on it is held out. */
  readonly threshold: number;
  /** Held-out instances of each family that are compared with. */
  readonly instances: number;
}

export interface DecontaminateResult {
  readonly folder: string;
  readonly tasks: number;
  readonly compared: number;
  readonly rejected: readonly Rejection[];
}

/** Writes `overlaps.jsonl`, a line per task with all that it shares, beside the data set that is left. */
export async function decontaminate(
  data: DataSet,
  against: readonly Suite[],
  { folder, n, threshold, instances }: DecontaminateSettings,
): Promise<DecontaminateResult> {
  prepareFolder(folder);
  const heldOut = against.flatMap((suite) => heldOutTasks(suite, instances));
  const index = new HeldOut(heldOut, n);
  const rejected: Rejection[] = [];
  const kept: Kept[] = [];
  const lines: { task: string; overlaps: readonly Overlap[] }[] = [];
  for (const name of data.suite.families) {
    const overlaps = index.overlaps(data.suite.render(name, "train", 0));
    lines.push({ task: name, overlaps });
    const worst = overlaps.toSorted((a, b) => b.share - a.share)[0];
    if (worst === undefined || worst.share < threshold) {
      copyTask(data, name, folder);
      kept.push({ name, attempts: data.attempts(name) });
      continue;
    }
    const reason = `${(worst.share * 100).toFixed(0)} % of its ${worst.part} is in ${worst.with}`;
    rejected.push({ kind: "task", name, stage: "decontaminate", reason });
  }
  await writeTextFile(`${folder}/overlaps.jsonl`, jsonLines(lines));
  const settings = { against: against.map(({ name }) => name), n, threshold, instances };
  await writeKept(data, folder, kept, rejected, { step: "decontaminate", settings });
  return { folder, tasks: kept.length, compared: heldOut.length, rejected };
}

function heldOutTasks(suite: Suite, instances: number): Task[] {
  return suite.families.flatMap((name) => {
    const count = suite.family(name).parametric ? instances : 1;
    return Array.from({ length: count }, (_, seed) => suite.render(name, "heldout", seed));
  });
}
