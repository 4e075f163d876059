/** Process controls of Linux that JavaScript has no name for. */

import { dlopen } from "bun:ffi";

const PR_SET_PDEATHSIG = 1;
const SIGKILL = 9;

/**
 * Asks the kernel to kill this process when the thread that started it ends, so that `kill -9` of the control process leaves
 * nothing behind (prctl(2), PR_SET_PDEATHSIG). Ends the process at once when the parent is already gone.
 */
export function dieWithParent(): void {
  const parent = process.ppid;
  const libc = dlopen("libc.so.6", { prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" } });
  libc.symbols.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  libc.close();
  if (process.ppid !== parent) process.exit(1);
}
