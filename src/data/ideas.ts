/** Ideas for tasks, as the exploring agent left them. */

import { z } from "zod";
import { AleError } from "../core/errors.ts";

const line = (max: number) =>
  z
    .string()
    .transform((text) => text.replace(/[\p{C}\s]+/gu, " ").trim())
    .pipe(z.string().min(1).max(max));

const IdeaSchema = z.object({
  title: line(120),
  idea: line(4000),
  files: z.array(line(200)).max(50).default([]),
  difficulty: z.enum(["easy", "medium", "hard"]).default("medium").catch("medium"),
});

export interface TaskIdea extends z.output<typeof IdeaSchema> {
  /** Name of the task's folder; unique within a data set. */
  readonly name: string;
}

const MAX_IDEAS = 1000;
const MAX_NAME = 48;

/** What is said about ideas that cannot be used. */
export interface ReadIdeas {
  readonly ideas: readonly TaskIdea[];
  readonly refused: readonly string[];
}

/**
 * Reads `ideas.json`. What is not an idea is refused one by one, and so is what is known already.
 * @throws AleError("task") when it is not a list at all
 */
export function readIdeas(text: string, taken: ReadonlySet<string>): ReadIdeas {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new AleError("task", "ideas.json is not JSON");
  }
  if (!Array.isArray(value)) throw new AleError("task", "ideas.json is not a list");
  const ideas: TaskIdea[] = [];
  const refused: string[] = [];
  const names = new Set(taken);
  for (const [i, entry] of value.slice(0, MAX_IDEAS).entries()) {
    const result = IdeaSchema.safeParse(entry);
    if (!result.success) {
      const issue = result.error.issues[0];
      refused.push(`idea ${i + 1}: ${issue?.path.join(".") || "entry"}: ${issue?.message}`);
      continue;
    }
    const name = slug(result.data.title);
    if (name === "" || names.has(name)) {
      refused.push(
        `idea ${i + 1}: ${name === "" ? "its title has no letters" : `there is one called ${name} already`}`,
      );
      continue;
    }
    names.add(name);
    ideas.push({ ...result.data, name });
  }
  return { ideas, refused };
}

/** A title as the name of a folder. */
export function slug(title: string): string {
  const plain = title
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-");
  return plain.replace(/^-+/, "").slice(0, MAX_NAME).replace(/-+$/, "");
}
