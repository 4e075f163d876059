/**
 * `bun run test [--all | --end-to-end] [FILE …]`: installs what is missing, then runs the unit tests; with `--all` the
 * end-to-end tests in `test/` (real sandboxes, real engine, compiled executable) too, with `--end-to-end` only those.
 * Ends with `N passed, N failed, N skipped`.
 */

import { ensureInstalled } from "./install.ts";
import { REPOSITORY } from "./repository.ts";

/** Longest a single test may take; end-to-end tests that need longer say so themselves. */
const UNIT_TEST_MS = 20_000;
const END_TO_END_TEST_MS = 120_000;

interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** Unit tests share nothing but the machine, so their files are shared out among the cores. */
const ON_ALL_CORES = ["--parallel", "--no-isolate"];

/** Runs `bun test` on the given places, shows its output, and returns the counts of its summary. */
async function runTests(places: readonly string[], testMs: number, flags: readonly string[] = []): Promise<Counts> {
  const child = Bun.spawn([process.execPath, "test", `--timeout=${testMs}`, ...flags, ...places], {
    cwd: REPOSITORY,
    stdio: ["ignore", "inherit", "pipe"],
    // Test results must not depend on who runs them: no colours in output that is compared, no telemetry.
    env: { ...process.env, DO_NOT_TRACK: "1" },
  });
  let report = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stderr) {
    process.stderr.write(chunk);
    report += decoder.decode(chunk, { stream: true });
  }
  const exitCode = await child.exited;
  const counts = {
    passed: lastCount(report, "pass"),
    failed: lastCount(report, "fail"),
    skipped: lastCount(report, "skip"),
  };
  // A crash, or a file that does not load, may leave a summary that sounds fine.
  return exitCode !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts;
}

/** The number in the last line of the form ` 12 pass`. */
function lastCount(report: string, word: "pass" | "fail" | "skip"): number {
  const plain = Bun.stripANSI(report);
  return Number([...plain.matchAll(new RegExp(`^\\s*(\\d+) ${word}$`, "gm"))].at(-1)?.[1] ?? 0);
}

async function main(argv: readonly string[]): Promise<boolean> {
  ensureInstalled();
  const files = argv.filter((argument) => !argument.startsWith("--"));
  const results: Counts[] = [];
  if (files.length > 0) results.push(await runTests(files, END_TO_END_TEST_MS));
  else {
    if (!argv.includes("--end-to-end"))
      results.push(await runTests(["src/", "scripts/", "bench/"], UNIT_TEST_MS, ON_ALL_CORES));
    if (argv.includes("--end-to-end") || argv.includes("--all"))
      results.push(await runTests(["test/"], END_TO_END_TEST_MS));
  }
  const sum = (key: keyof Counts) => results.reduce((total, counts) => total + counts[key], 0);
  const ran = sum("passed") + sum("failed");
  if (ran === 0) console.error("no test ran");
  console.log(`${sum("passed")} passed, ${sum("failed")} failed, ${sum("skipped")} skipped`);
  return ran > 0 && sum("failed") === 0;
}

try {
  process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
