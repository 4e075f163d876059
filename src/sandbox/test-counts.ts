/** How many of a verifier's tests passed, from the reports that test runners write. */

import { z } from "zod";
import type { TestCounts } from "../core/types.ts";

const count = z.number().int().min(0).max(1e9);
/** https://ctrf.io/docs/specification/summary */
const CtrfSchema = z.object({ results: z.object({ summary: z.object({ tests: count, passed: count }) }) });

/** A report in CTRF; `undefined` when it is none, or has no tests. */
export function readCtrf(text: string): TestCounts | undefined {
  try {
    const { tests, passed } = CtrfSchema.parse(JSON.parse(text)).results.summary;
    return counts(passed, tests);
  } catch {
    return undefined;
  }
}

/**
 * A report in JUnit's XML, summed over its suites. Skipped tests count as neither passed nor failed.
 * https://github.com/testmoapp/junitxml
 */
export function readJunit(text: string): TestCounts | undefined {
  let total = 0;
  let passed = 0;
  for (const [tag] of text.matchAll(/<testsuite\b[^>]*>/g)) {
    const number = (name: string) => Number(new RegExp(`\\s${name}="(\\d{1,9})"`).exec(tag)?.[1] ?? 0);
    const ran = number("tests") - number("skipped");
    total += ran;
    passed += ran - number("failures") - number("errors");
  }
  return counts(passed, total);
}

/** `passed` of `total`, where they can be that. */
export function counts(passed: number, total: number): TestCounts | undefined {
  return total >= 1 && passed >= 0 && passed <= total ? { passed, total } : undefined;
}
