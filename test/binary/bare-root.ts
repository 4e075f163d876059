/** A root file system with nothing but glibc, `/proc` and the executable, and the way into it. */

import { chmodSync, copyFileSync, existsSync, mkdirSync, realpathSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Obstacle, REPOSITORY, type Result, run, toolObstacle } from "./support.ts";

const LOADER = "/lib64/ld-linux-x86-64.so.2";
/** The five libraries of glibc that programs of this size ask for; with the loader, six files. */
const LIBRARIES = ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"] as const;

export function bareRootObstacle(): Obstacle {
  const missing = toolObstacle("cc");
  if (missing !== undefined) return missing;
  if (!existsSync(LOADER)) return `${LOADER} is missing`;
  return glibcFolder() === undefined ? "glibc's folder was not found" : undefined;
}

function glibcFolder(): string | undefined {
  return ["/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"].find((folder) =>
    existsSync(join(folder, LIBRARIES[0])),
  );
}

export function busyboxObstacle(): Obstacle {
  const missing = toolObstacle("busybox");
  if (missing !== undefined) return missing;
  const dynamic = run(["ldd", Bun.which("busybox") as string]).exitCode === 0;
  return dynamic ? "busybox is not static (apt-get install busybox-static)" : undefined;
}

/** Fills `root` with glibc's six files and the executable as `/ale`. */
export function makeBareRoot(root: string, executable: string): void {
  const folder = glibcFolder() as string;
  copyInto(root, LOADER, LOADER);
  for (const name of LIBRARIES) copyInto(root, join(folder, name), join(folder, name));
  copyInto(root, executable, "/ale");
}

/** Adds busybox with a name for each of its applets, the least userland in which tasks can be worked on. */
export function addBusybox(root: string, busybox: string): void {
  copyInto(root, busybox, "/bin/busybox");
  const applets = run([busybox, "--list"]).stdout.trim().split("\n");
  for (const applet of applets.filter((name) => name !== "busybox")) symlinkSync("busybox", join(root, "bin", applet));
  for (const folder of ["dev", "etc", "home", "root", "sys", "tmp", "usr", "var"]) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  chmodSync(join(root, "tmp"), 0o1777);
}

function copyInto(root: string, source: string, target: string): void {
  mkdirSync(dirname(join(root, target)), { recursive: true });
  copyFileSync(realpathSync(source), join(root, target));
  chmodSync(join(root, target), 0o755);
}

/** Runs a command in `root`, entered by pivot_root in a mount namespace of its own. */
export function runInRoot(
  root: string,
  command: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly timeoutMs?: number } = {},
): Result {
  return run([enterRoot(), root, ...command], options);
}

/** The compiled `enter-root.c`. */
function enterRoot(): string {
  const folder = join(REPOSITORY, ".build", "test");
  const path = join(folder, "enter-root");
  mkdirSync(folder, { recursive: true });
  const source = join(import.meta.dir, "enter-root.c");
  const flags = ["-static", "-O2", "-Wall", "-Wextra", "-Werror"];
  const { exitCode, stderr } = run(["cc", ...flags, "-o", path, source]);
  if (exitCode !== 0) throw new Error(`enter-root.c does not compile: ${stderr}`);
  return path;
}
