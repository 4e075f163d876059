/**
 * `bun run golden -- DIR`: checks a folder of golden vectors, or any folder below one. Cases of operations it does not know are
 * skipped by name. Prints one line per case, ends with `N passed, N failed, N skipped`; exit code 1 if any failed.
 */

import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { errorMessage } from "../src/core/errors.ts";
import { checkAlgorithms } from "./golden-algorithms.ts";
import { checkModel } from "./golden-models.ts";

/** One line of the report. A case that throws failed; a `skip` says why it was not run. */
export interface GoldenCase {
  readonly name: string;
  readonly skip?: string;
  /** Runs the case; throws when it is out of tolerance, else returns what was measured. */
  readonly run?: () => string;
}

function casesIn(folder: string): GoldenCase[] {
  if (existsSync(join(folder, "config.json")) && existsSync(join(folder, "golden.json"))) return checkModel(folder);
  const entries = readdirSync(folder).sort();
  const cases: GoldenCase[] = [];
  for (const entry of entries) {
    const path = join(folder, entry);
    if (statSync(path).isDirectory()) cases.push(...casesIn(path));
    else if (/^\d\d-.*\.json$/.test(entry)) cases.push(...checkAlgorithms(path));
  }
  return cases;
}

function main(): number {
  const argument = process.argv[2];
  if (argument === undefined || !existsSync(argument)) {
    console.error(
      `usage: bun run golden -- DIR   (${argument === undefined ? "no folder given" : `${argument} not found`})`,
    );
    return 2;
  }
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const { name, skip, run } of casesIn(resolve(argument))) {
    if (run === undefined) {
      counts.skipped++;
      console.log(`skip ${name}: ${skip}`);
      continue;
    }
    try {
      const measured = run();
      counts.passed++;
      console.log(`pass ${name}${measured === "" ? "" : ` (${measured})`}`);
    } catch (error) {
      counts.failed++;
      console.log(`FAIL ${name}: ${errorMessage(error)}`);
    }
  }
  if (counts.passed + counts.failed + counts.skipped === 0) {
    console.error(`${basename(argument)} holds no golden files`);
    return 2;
  }
  console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  return counts.failed > 0 ? 1 : 0;
}

process.exit(main());
