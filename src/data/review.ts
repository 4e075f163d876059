/** What the reviewing agent says about a task. */

import { z } from "zod";
import type { Sandbox } from "../core/ports.ts";
import type { SandboxFile, Task } from "../core/types.ts";
import { readFolder } from "../sandbox/archive-files.ts";
import { folderOf } from "../tasks/write.ts";
import { readText } from "./agents.ts";
import type { Trial } from "./execution.ts";
import { REVIEW_FOLDER } from "./prompts/review.ts";

const MAX_REVIEW_BYTES = 64 << 10;
/** Scripts of each kind that are run. */
const MAX_TRIALS = 3;

const ReviewSchema = z.object({
  accept: z.boolean(),
  reasons: z
    .array(
      z.string().transform((text) =>
        text
          .replace(/[\p{C}\s]+/gu, " ")
          .trim()
          .slice(0, 500),
      ),
    )
    .max(50)
    .default([]),
});

export interface Review {
  readonly accept: boolean;
  readonly reasons: readonly string[];
  readonly trials: readonly Trial[];
}

/** The files that a reviewer is shown, as they lie in the task's folder. */
export function reviewedFiles(task: Task): SandboxFile[] {
  return [...folderOf(task)].map(([path, file]) => ({ path, ...file }));
}

/** What the reviewer left; `undefined` without a verdict that can be read. */
export async function readReview(sandbox: Sandbox): Promise<Review | undefined> {
  const verdict = parseReview((await readText(sandbox, `${REVIEW_FOLDER}/review.json`, MAX_REVIEW_BYTES)) ?? "");
  if (verdict === undefined) return undefined;
  const alternatives = await readTrials(sandbox, "alternatives", 1);
  const mistakes = await readTrials(sandbox, "mistakes", 0);
  return { ...verdict, trials: [...alternatives, ...mistakes] };
}

export function parseReview(text: string): Omit<Review, "trials"> | undefined {
  try {
    return ReviewSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

async function readTrials(sandbox: Sandbox, kind: "alternatives" | "mistakes", expected: 0 | 1): Promise<Trial[]> {
  const files = await readFolder(sandbox, `${REVIEW_FOLDER}/${kind}`, { maxFiles: 20, maxBytes: 1 << 20 });
  const scripts = files.filter(({ path }) => /^[\w.-]+\.sh$/.test(path)).slice(0, MAX_TRIALS);
  return scripts.map((script) => ({ name: `the reviewer's ${kind}/${script.path}`, script, expected }));
}
