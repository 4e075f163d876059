/** The sandboxes of this machine, for whoever needs some. */

import { mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { aleHome, sandboxStateDir } from "../config/paths.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import { ImageStore } from "../images/image-store.ts";
import { cacheBases } from "../runtime/native-cache.ts";
import { createSandboxProvider, type NativeSandboxProvider } from "../sandbox/supervisor.ts";

/**
 * Paths no sandbox may see: they hold answers or Ale itself. The repository is masked too when Ale runs from source.
 */
export function maskedPaths(suite: string, extra: readonly string[] = []): string[] {
  const executable = process.execPath;
  const main = resolve(Bun.main);
  const source = main.startsWith("/$bunfs") ? [] : [resolve(import.meta.dir, "../..")];
  return [executable, aleHome(), ...cacheBases(), resolve(suite), ...source, ...extra.map((path) => resolve(path))];
}

/** The sandboxes of this machine, for the tasks of `suite`. */
export async function openSandboxes(suite: string, extraMasks: readonly string[] = []): Promise<NativeSandboxProvider> {
  const directory = sandboxStateDir();
  try {
    mkdirSync(directory, { recursive: true });
  } catch (cause) {
    throw new AleError("sandbox", `${directory} cannot be made: ${errorMessage(cause)}`, {
      hint: "set ALE_HOME to a folder you may write to",
      cause,
    });
  }
  const { resolve: resolveImage } = new ImageStore(aleHome());
  return createSandboxProvider({ maskPaths: maskedPaths(suite, extraMasks), stateDir: directory, resolveImage });
}
