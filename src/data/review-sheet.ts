/** The fourth filter: a person looks at a sample, marks each entry, and the marks are read back. */

import { z } from "zod";
import { AleError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import { copyTask, type DataSet, jsonLines, prepareFolder } from "./data-set.ts";
import { attemptMaterial, taskMaterial } from "./material.ts";
import type { Rejection } from "./records.ts";
import { type Kept, writeKept } from "./write-kept.ts";

export type ReviewForm = "markdown" | "jsonl";

/** Something to be looked at. */
export interface ReviewEntry {
  readonly kind: "task" | "trajectory";
  readonly name: string;
  /** Of a trajectory. */
  readonly member?: number | undefined;
  readonly material: string;
}

/** A random sample of a data set's tasks, or of its trajectories; the same for the same seed. */
export function sampleEntries(data: DataSet, kind: ReviewEntry["kind"], count: number, seed: number): ReviewEntry[] {
  const rng = new Rng(`review/${kind}/${seed}`);
  const all = data.suite.families.flatMap((name): { name: string; member?: number }[] =>
    kind === "task" ? [{ name }] : data.attempts(name).map(({ member }) => ({ name, member })),
  );
  return rng
    .shuffle(all)
    .slice(0, count)
    .map(({ name, member }): ReviewEntry => {
      const task = data.suite.render(name, "train", 0);
      const attempt = data.attempts(name).find((one) => one.member === member);
      if (attempt === undefined) return { kind: "task", name, material: taskMaterial(task) };
      const end = `\n(ended by ${attempt.stopReason}, reward ${attempt.reward})`;
      return {
        kind: "trajectory",
        name,
        member: attempt.member,
        material: attemptMaterial(task.instruction, attempt.turns) + end,
      };
    });
}

const HEAD =
  "Mark one box of each entry with an x. Write why behind the reason; entries without a mark stay as they are.";

/** The sheet for a person. */
export function writeSheetText(entries: readonly ReviewEntry[], form: ReviewForm): string {
  if (form === "jsonl") return jsonLines(entries.map((entry) => ({ ...entry, verdict: null, reason: "" })));
  const parts = entries.map((entry, i) => {
    // Indented, no line of the material can pass for one of the sheet's.
    const material = entry.material.replace(/[^\P{C}\n\t]/gu, "?").replace(/^/gm, "    ");
    return `## ${i + 1}. ${titleOf(entry)}\n\n- [ ] accept\n- [ ] reject\n- reason:\n\n${material}\n`;
  });
  return `# Review\n\n${HEAD}\n\n${parts.join("\n")}`;
}

function titleOf({ kind, name, member }: Pick<ReviewEntry, "kind" | "name" | "member">): string {
  return kind === "task" ? `task ${name}` : `trajectory ${name} ${member}`;
}

export interface ReviewMark {
  readonly kind: ReviewEntry["kind"];
  readonly name: string;
  readonly member?: number | undefined;
  readonly verdict: "accept" | "reject" | null;
  readonly reason: string;
}

const MarkSchema = z.object({
  kind: z.enum(["task", "trajectory"]),
  name: z.string(),
  member: z.number().int().optional(),
  verdict: z.enum(["accept", "reject"]).nullable(),
  reason: z.string().default(""),
});

/** Reads a marked sheet. @throws AleError("usage") naming the line that cannot be understood */
export function readMarks(text: string, form: ReviewForm, name: string): ReviewMark[] {
  return form === "jsonl" ? readJsonMarks(text, name) : readMarkdownMarks(text, name);
}

function readJsonMarks(text: string, name: string): ReviewMark[] {
  return text.split("\n").flatMap((line, i) => {
    if (line.trim() === "") return [];
    try {
      return [MarkSchema.parse(JSON.parse(line))];
    } catch {
      throw new AleError("usage", `${name}:${i + 1}: no mark of a review`, {
        hint: 'a line has kind, name, and "verdict": "accept", "reject" or null',
      });
    }
  });
}

type OpenMark = { -readonly [key in keyof ReviewMark]: ReviewMark[key] };

function readMarkdownMarks(text: string, name: string): ReviewMark[] {
  const marks: OpenMark[] = [];
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    const refuse = (why: string) =>
      new AleError("usage", `${name}:${i + 1}: ${why}`, { hint: "mark one box with an x" });
    const title = /^## \d+\. (task|trajectory) (\S+)(?: (\d+))?\s*$/.exec(line);
    if (title !== null) {
      const [, kind, task = "", member] = title;
      const which = kind === "trajectory" ? { member: Number(member) } : {};
      marks.push({ kind: kind as ReviewEntry["kind"], name: task, ...which, verdict: null, reason: "" });
      continue;
    }
    const box = /^- \[([^\]]*)\] (accept|reject)\s*$/.exec(line);
    const reason = /^- reason:(.*)$/.exec(line)?.[1]?.trim();
    const mark = marks.at(-1);
    if (mark === undefined) continue;
    if (reason !== undefined) mark.reason = reason;
    if (box === null || box[1]?.trim() === "") continue;
    if (box[1]?.trim().toLowerCase() !== "x") throw refuse(`[${box[1]}] is no mark`);
    if (mark.verdict !== null) throw refuse(`${titleOf(mark)} is marked twice`);
    mark.verdict = box[2] as "accept" | "reject";
  }
  return marks;
}

export interface ReviewResult {
  readonly folder: string;
  readonly accepted: number;
  readonly rejected: readonly Rejection[];
  readonly unmarked: number;
  readonly tasks: number;
}

/** Writes a new data set without what was rejected. @throws AleError("usage") for marks of things that are not there */
export async function applyMarks(data: DataSet, marks: readonly ReviewMark[], folder: string): Promise<ReviewResult> {
  const { families } = data.suite;
  const unknown = marks.find(({ name }) => !families.includes(name));
  if (unknown !== undefined) {
    throw new AleError("usage", `${data.path} has no ${titleOf(unknown)}`, {
      hint: "read the sheet into the data set it was made from",
    });
  }
  prepareFolder(folder);
  const rejected = marks
    .filter(({ verdict }) => verdict === "reject")
    .map(({ kind, name, member, reason }): Rejection => {
      return {
        kind,
        name,
        ...(member === undefined ? {} : { member }),
        stage: "review",
        reason: reason || "rejected by a person",
      };
    });
  const isRejected = (kind: ReviewEntry["kind"], name: string, member?: number) =>
    rejected.some((one) => one.kind === kind && one.name === name && one.member === member);
  const kept = families
    .filter((name) => !isRejected("task", name))
    .map(
      (name): Kept => ({
        name,
        attempts: data.attempts(name).filter(({ member }) => !isRejected("trajectory", name, member)),
      }),
    );
  for (const { name } of kept) copyTask(data, name, folder);
  const accepted = marks.filter(({ verdict }) => verdict === "accept").length;
  const unmarked = marks.length - accepted - rejected.length;
  const settings = { marked: accepted + rejected.length, accepted, rejected: rejected.length, unmarked };
  await writeKept(data, folder, kept, rejected, { step: "review", settings });
  return { folder, accepted, rejected, unmarked, tasks: kept.length };
}
