/** Compiles the C files beside it to a shared library. Used by the build, and on demand in development. */

import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { join, resolve } from "node:path";
import { AleError } from "../../core/errors.ts";

const FLAGS = ["-shared", "-fPIC", "-O3", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-fvisibility=hidden"];
// Products and sums are rounded one by one, as they are written, with every set of instructions.
const ROUNDING = ["-ffp-contract=off", "-fno-math-errno"];
const CACHE = resolve(import.meta.dir, "../../../.build/kernels");
const DEADLINE_MS = 60_000;

/**
 * Path of the compiled library in the cache, compiled now when its source changed; it takes about a second. `undefined` on
 * other systems than linux-x64 and where there is no C compiler.
 * @throws AleError("engine") with the compiler's words when it fails.
 */
export function buildCachedKernels(): string | undefined {
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  const compiler = Bun.which(process.env.CC || "cc") ?? Bun.which("gcc") ?? Bun.which("clang");
  if (compiler === null) return undefined;
  const names = readdirSync(import.meta.dir).filter((name) => /\.[ch]$/.test(name));
  const sources = names.sort().map((name) => join(import.meta.dir, name));
  const hash = createHash("sha256").update([compiler, ...FLAGS, ...ROUNDING].join("\0"));
  for (const source of sources) hash.update(`\0${source}\0`).update(readFileSync(source));
  const folder = join(CACHE, hash.digest("hex").slice(0, 24));
  const file = join(folder, "libale-operators.so");
  if (existsSync(file)) return file;
  mkdirSync(folder, { recursive: true });
  // Under a name of our own first: two builds at once must not load half a file.
  const partial = `${file}.${process.pid}`;
  const inputs = sources.filter((source) => source.endsWith(".c"));
  const { exitCode, stderr } = Bun.spawnSync([compiler, ...FLAGS, ...ROUNDING, "-o", partial, ...inputs], {
    timeout: DEADLINE_MS,
  });
  if (exitCode !== 0) {
    const message = stderr.toString().trim().slice(0, 2000);
    throw new AleError("engine", `${compiler} could not compile the operators:\n${message}`, {
      hint: "report this with the compiler's version (`cc --version`)",
    });
  }
  renameSync(partial, file);
  return file;
}

/** Compiles the library to `outFile`. @throws AleError("engine") when there is no C compiler or it fails. */
export function buildKernels(outFile: string): void {
  const cached = buildCachedKernels();
  if (cached === undefined) {
    throw new AleError("engine", "no C compiler was found for the operators", {
      hint: "install one: Debian/Ubuntu `apt-get install gcc libc6-dev`, Fedora `dnf install gcc`",
    });
  }
  copyFileSync(cached, outFile);
}
