/** Installs the packages of `bun.lock` when they are missing or of another lock file. Uses nothing but built-in modules. */

import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { REPOSITORY } from "./repository.ts";

/** Written after a successful installation: the hash of the lock file it followed. */
const STAMP = join(REPOSITORY, "node_modules", ".ale-installed");
const INSTALL_DEADLINE_MS = 600_000;

/** Returns whether something had to be installed. @throws Error when `bun install` fails. */
export function ensureInstalled(): boolean {
  const lock = createHash("sha256")
    .update(readFileSync(join(REPOSITORY, "bun.lock")))
    .digest("hex");
  if (existsSync(STAMP) && readFileSync(STAMP, "utf8") === lock) return false;
  console.log("installing packages …");
  const { exitCode, signalCode } = Bun.spawnSync([process.execPath, "install", "--frozen-lockfile"], {
    cwd: REPOSITORY,
    stdio: ["ignore", "inherit", "inherit"],
    timeout: INSTALL_DEADLINE_MS,
  });
  if (exitCode !== 0)
    throw new Error(`bun install --frozen-lockfile failed (${signalCode ?? `exit code ${exitCode}`})`);
  writeFileSync(STAMP, lock);
  return true;
}
