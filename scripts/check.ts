/** `bun run check`: types, linter and formatter, layers. Every check runs; the exit code is 1 when one of them failed. */

import { join } from "node:path";
import { ensureInstalled } from "./install.ts";
import { REPOSITORY } from "./repository.ts";

const DEADLINE_MS = 300_000;

const CHECKS = [
  { name: "types", command: ["node_modules/.bin/tsc", "--noEmit", "-p", "."] },
  { name: "linter", command: ["node_modules/.bin/biome", "check", "--error-on-warnings"] },
  { name: "layers", command: [process.execPath, join("scripts", "layers.ts")] },
] as const;

function check(): boolean {
  ensureInstalled();
  const failed: string[] = [];
  for (const { name, command } of CHECKS) {
    const started = performance.now();
    const { exitCode, exitedDueToTimeout } = Bun.spawnSync([...command], {
      cwd: REPOSITORY,
      stdio: ["ignore", "inherit", "inherit"],
      timeout: DEADLINE_MS,
    });
    if (exitCode !== 0) failed.push(name);
    const outcome = exitedDueToTimeout ? `took more than ${DEADLINE_MS / 1000} s` : exitCode === 0 ? "ok" : "failed";
    console.log(`${name}: ${outcome} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  }
  console.log(`${CHECKS.length - failed.length} passed, ${failed.length} failed`);
  return failed.length === 0;
}

try {
  process.exitCode = check() ? 0 : 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
