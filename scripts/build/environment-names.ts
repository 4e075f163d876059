/**
 * Bun acts on some environment variables before our code runs: `BUN_BE_BUN=1` turns any compiled program into the bun
 * command, `BUN_OPTIONS="--preload x.js"` runs foreign code in it. Nothing in the build switches them off, so their names
 * inside the executable are replaced by names of the same length that no shell can export.
 */

/** The names; where one begins with another, the longer one comes first. */
export const DISARMED_NAMES = [
  "BUN_OPTIONS",
  "BUN_BE_BUN",
  // Open a debugger, through which any local program can run code in this one.
  "BUN_INSPECT_CONNECT_TO",
  "BUN_INSPECT_PRELOAD",
  "BUN_INSPECT",
  // Write files wherever they say.
  "BUN_BYTECODE_ORDER_NAMES_OUT",
  "BUN_BYTECODE_ORDER_OUT",
  "BUN_BYTECODE_DIGEST_OUT",
  // Send a crash report over the network.
  "BUN_ENABLE_CRASH_REPORTING",
  "BUN_CRASH_REPORT_URL",
] as const;

/** The name that takes the place of `name`: `.` cannot be part of a shell variable. */
export function disarmedName(name: string): string {
  return `.${name.slice(1)}`;
}

/**
 * Replaces every occurrence in `executable`, in place, and returns how many there were of each.
 * @throws Error when a name does not occur: this version of Bun keeps it elsewhere, and the protection would be gone.
 */
export function disarmEnvironmentNames(executable: Buffer): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const name of DISARMED_NAMES) {
    const replacement = Buffer.from(disarmedName(name), "latin1");
    let count = 0;
    for (let at = executable.indexOf(name, 0, "latin1"); at >= 0; at = executable.indexOf(name, at, "latin1")) {
      replacement.copy(executable, at);
      count++;
    }
    if (count === 0) throw new Error(`${name} does not occur in the executable; find out how Bun reads it now`);
    counts.set(name, count);
  }
  return counts;
}
