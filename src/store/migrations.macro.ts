/** Runs while bundling (and at import under `bun run`), so that the executable carries the migrations and reads no files. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

/** One migration: the statements drizzle-kit wrote, in order. */
export interface Migration {
  readonly tag: string;
  readonly statements: readonly string[];
}

export function readMigrations(): Migration[] {
  const folder = join(import.meta.dir, "migrations");
  const journal = JSON.parse(readFileSync(join(folder, "meta", "_journal.json"), "utf8")) as {
    entries: { idx: number; tag: string }[];
  };
  return journal.entries
    .sort((a, b) => a.idx - b.idx)
    .map(({ tag }) => ({
      tag,
      statements: readFileSync(join(folder, `${tag}.sql`), "utf8")
        .split("--> statement-breakpoint")
        .map((statement) => statement.trim())
        .filter((statement) => statement !== ""),
    }));
}
