/** Which of the host's paths to hide, as paths inside a sandbox of a profile. */

import { realpathSync } from "node:fs";
import { isAbsolute, join, relative } from "node:path";
import type { SandboxProfile } from "./profiles.ts";

/** The part of a profile that is looked at. */
export interface MaskedRoot {
  readonly kind: SandboxProfile["kind"];
  /** The folder of the host that holds the root file system, if there is one. */
  readonly root?: string;
  readonly binds: readonly string[];
  readonly masks: readonly string[];
}

/** Top-level folders that the `host` profile may show, besides its binds. */
const HOST_FOLDERS = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

function resolveLinks(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** `path` below `folder`, or `undefined` when it is elsewhere or `folder` itself. */
function below(folder: string, path: string): string | undefined {
  const rest = relative(folder, path);
  return rest === "" || rest.startsWith("..") || isAbsolute(rest) ? undefined : rest;
}

/**
 * Masks for a profile: each host path that would be visible, both as it was given and with links resolved. The launcher
 * follows links in them as the sandbox would.
 */
export function masksFor(profile: MaskedRoot, hostPaths: readonly string[]): string[] {
  const masks = new Set(profile.masks);
  for (const path of new Set([...hostPaths, ...hostPaths.map(resolveLinks)])) {
    if (!isAbsolute(path)) continue;
    if (profile.root !== undefined) {
      const inside = below(resolveLinks(profile.root), path);
      if (inside !== undefined) masks.add(join("/", inside));
    }
    const shown = profile.kind === "host" ? [...HOST_FOLDERS, ...profile.binds] : profile.binds;
    if (shown.some((folder) => below(folder, path) !== undefined || folder === path)) masks.add(path);
  }
  return [...masks].sort();
}
