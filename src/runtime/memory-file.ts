/** Native files in memory, for machines where no folder is both writable and executable (memfd_create(2)). */

import { dlopen } from "bun:ffi";
import { accessSync, closeSync, constants, fchmodSync, writeSync } from "node:fs";
import { AleError } from "../core/errors.ts";
import { allocateString } from "./memory.ts";

const MFD_CLOEXEC = 1;
/** Linux 6.3 and later want it said whether a memory file may be executed; older kernels refuse the flag. */
const MFD_EXEC = 0x10;

/**
 * Puts `content` into an anonymous file of this process and returns a path under which this process and its children may
 * map and execute it. The file lives as long as the process.
 * @throws AleError("engine") when the kernel has no memory files or forbids to execute them.
 */
export function createMemoryFile(name: string, content: Uint8Array): string {
  const libc = dlopen("libc.so.6", { memfd_create: { args: ["ptr", "u32"], returns: "i32" } });
  const label = allocateString(name);
  let file = libc.symbols.memfd_create(label, MFD_CLOEXEC | MFD_EXEC);
  if (file < 0) file = libc.symbols.memfd_create(label, MFD_CLOEXEC);
  libc.close();
  if (file < 0) throw new AleError("engine", `the kernel gave no memory file for ${name}`);
  try {
    for (let written = 0; written < content.length; ) written += writeSync(file, content, written);
    fchmodSync(file, 0o700);
    // A child finds it by the number of this process; `self` would do for this process alone.
    const path = `/proc/${process.pid}/fd/${file}`;
    accessSync(path, constants.R_OK | constants.X_OK);
    return path;
  } catch (error) {
    closeSync(file);
    throw error;
  }
}
