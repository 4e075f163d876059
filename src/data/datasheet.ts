/** What a data set is made of and how it came to be (after "Datasheets for Datasets", arXiv 1803.09010), as JSON and text. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import { VERSION } from "../core/version.ts";
import { writeTextFile } from "../export/files.ts";
import type { Rejection } from "./records.ts";

const JSON_FILE = "datasheet.json";
const TEXT_FILE = "DATASHEET.md";

const TaskSchema = z.object({
  name: z.string(),
  /** Sha256 of its files. */
  hash: z.string(),
  title: z.string().optional(),
  difficulty: z.string().optional(),
  /** By policy: attempts, and how many of them solved it. */
  passRates: z.record(z.string(), z.object({ attempts: z.number().int(), solved: z.number().int() })).default({}),
});

const SheetSchema = z.object({
  version: z.literal(1),
  name: z.string(),
  sources: z.array(
    z.object({
      name: z.string(),
      hash: z.string(),
      licence: z.string().optional(),
      commit: z.string().optional(),
      files: z.number().int(),
      skipped: z.number().int(),
    }),
  ),
  /** What was done to it, in order. */
  steps: z.array(
    z.object({
      step: z.string(),
      ale: z.string(),
      date: z.string(),
      settings: z.record(z.string(), z.unknown()),
      kept: z.number().int(),
      dropped: z.number().int(),
    }),
  ),
  /** Rejections by kind, stage and number. */
  rejections: z.record(z.string(), z.number().int()),
  tasks: z.array(TaskSchema),
  attempts: z.number().int(),
});

export type Datasheet = z.infer<typeof SheetSchema>;
export type SheetTask = z.infer<typeof TaskSchema>;

export function emptySheet(name: string): Datasheet {
  return { version: 1, name, sources: [], steps: [], rejections: {}, tasks: [], attempts: 0 };
}

/** The datasheet in `folder`. @throws AleError("usage") when it cannot be read */
export function readSheet(folder: string): Datasheet | undefined {
  const path = join(folder, JSON_FILE);
  if (!existsSync(path)) return undefined;
  try {
    return SheetSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    throw new AleError("usage", `${path} cannot be read: ${errorMessage(error).split("\n")[0]}`, { cause: error });
  }
}

export interface SheetStep {
  readonly step: string;
  readonly settings: Readonly<Record<string, unknown>>;
  readonly kept: number;
  readonly dropped: number;
}

/** The step with the version and the day it was done with. */
export function datedStep(step: SheetStep): Datasheet["steps"][number] {
  return { ...step, settings: { ...step.settings }, ale: VERSION, date: new Date().toISOString().slice(0, 10) };
}

export function countRejections(rejected: readonly Rejection[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { kind, stage } of rejected) counts[`${kind}/${stage}`] = (counts[`${kind}/${stage}`] ?? 0) + 1;
  return counts;
}

export async function writeSheet(folder: string, sheet: Datasheet): Promise<void> {
  await writeTextFile(join(folder, JSON_FILE), `${JSON.stringify(sheet, undefined, 2)}\n`);
  await writeTextFile(join(folder, TEXT_FILE), sheetText(sheet));
}

/** Text from elsewhere as part of a table or a line. */
function plain(text: string): string {
  return text.replace(/[\p{C}\s]+/gu, " ").replace(/[|<>`\\*_[\]]/g, (mark) => `\\${mark}`);
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return rows.length === 0 ? "none\n" : `${[line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n")}\n`;
}

function sheetText(sheet: Datasheet): string {
  const sources = sheet.sources.map(({ name, licence, commit, hash, files, skipped }) => [
    ...[plain(name), plain(licence ?? "not found"), commit?.slice(0, 12) ?? "", hash.slice(0, 12)],
    ...[String(files), String(skipped)],
  ]);
  const steps = sheet.steps.map(({ step, date, ale, settings, kept, dropped }) => [
    ...[step, date, ale, String(kept), String(dropped)],
    plain(
      Object.entries(settings)
        .map(([key, value]) => `${key} ${JSON.stringify(value)}`)
        .join(", "),
    ),
  ]);
  const rejections = Object.entries(sheet.rejections).map(([what, count]) => [what, String(count)]);
  const tasks = sheet.tasks.map(({ name, hash, difficulty, passRates }) => [
    ...[name, difficulty ?? "", hash.slice(0, 12)],
    plain(
      Object.entries(passRates)
        .map(([who, { attempts, solved }]) => `${who}: ${solved} of ${attempts}`)
        .join("; "),
    ),
  ]);
  return [
    `# ${plain(sheet.name)}\n`,
    `${sheet.tasks.length} tasks, ${sheet.attempts} trajectories.\n`,
    `## Sources\n\n${table(["source", "licence", "commit", "files' hash", "files", "left out"], sources)}`,
    `## How it was made\n\n${table(["step", "date", "ale", "kept", "dropped", "settings"], steps)}`,
    `## Rejections\n\nReasons one by one: rejected.jsonl.\n\n${table(["what / where", "number"], rejections)}`,
    `## Tasks\n\n${table(["task", "difficulty", "hash", "solved by"], tasks)}`,
    `## Use\n\n${useText(sheet)}\n`,
  ].join("\n");
}

function useText({ steps }: Datasheet): string {
  const did = (name: string) => steps.some(({ step }) => step === name);
  return [
    did("synth")
      ? "Its tasks were written by models in sandboxes; the licence of what they contain is that of the source."
      : "",
    did("review") ? "A person looked at a sample of it." : "No person has looked at a sample of it.",
    "Tasks are folders in Harbor form. Trajectories are text, without tokens and log-probabilities: they can be imitated, not trained on as if a policy of ours had sampled them.",
  ]
    .filter((sentence) => sentence !== "")
    .join(" ");
}
