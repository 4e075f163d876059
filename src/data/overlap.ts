/** Tasks that a held-out suite has too, found by the n-grams of words they share (as in GPT-3, arXiv 2005.14165, appendix C). */

import type { Task } from "../core/types.ts";

/** The parts of a task that can give a held-out one away. */
export const PARTS = ["instruction", "solution", "tests"] as const;
export type Part = (typeof PARTS)[number];

export interface Overlap {
  readonly part: Part;
  /** Share of the part's n-grams that the held-out task has too. */
  readonly share: number;
  /** Id of the held-out task with the largest share. */
  readonly with: string;
}

const decoder = new TextDecoder();

/** Words in lower case; what is neither letter nor digit parts them. */
export function words(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

/** All n-grams of a text; a shorter text is one by itself, so that it is only met as a whole. */
export function ngrams(text: string, n: number): Set<string> {
  const all = words(text);
  if (all.length === 0) return new Set();
  if (all.length <= n) return new Set([all.join(" ")]);
  return new Set(Array.from({ length: all.length - n + 1 }, (_, i) => all.slice(i, i + n).join(" ")));
}

export function partText(task: Task, part: Part): string {
  if (part === "instruction") return task.instruction;
  return task[part].map(({ content }) => decoder.decode(content)).join("\n");
}

/** The n-grams of held-out tasks, by part. */
export class HeldOut {
  readonly #n: number;
  readonly #tasks = new Map<Part, Map<string, Set<string>>>();

  constructor(tasks: Iterable<Task>, n: number) {
    this.#n = n;
    for (const part of PARTS) this.#tasks.set(part, new Map());
    for (const task of tasks) {
      for (const part of PARTS) {
        for (const gram of ngrams(partText(task, part), n)) {
          const where = this.#tasks.get(part) as Map<string, Set<string>>;
          where.set(gram, (where.get(gram) ?? new Set()).add(task.id));
        }
      }
    }
  }

  /** How much of each part is held out; parts that share nothing are left out. */
  overlaps(task: Task): Overlap[] {
    return PARTS.flatMap((part) => {
      const own = ngrams(partText(task, part), this.#n);
      const shared = new Map<string, number>();
      for (const gram of own) {
        for (const id of this.#tasks.get(part)?.get(gram) ?? []) shared.set(id, (shared.get(id) ?? 0) + 1);
      }
      const [most] = [...shared].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1));
      return most === undefined ? [] : [{ part, share: most[1] / own.size, with: most[0] }];
    });
  }
}
