/** Compiles the launcher: one static C program without dependencies. Used by the build, and on demand in development. */

import { mkdir, readdir, rename } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AleError } from "../../core/errors.ts";

const FLAGS = ["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11"];
const CACHE = resolve(import.meta.dir, "../../../.build/launcher");
const INSTALL_HINT =
  "install a C compiler and the static C library: Debian/Ubuntu `apt-get install gcc libc6-dev`, " +
  "Fedora `dnf install gcc glibc-static`, Alpine `apk add gcc musl-dev`";

async function listSources(): Promise<string[]> {
  const names = await readdir(import.meta.dir);
  return names
    .filter((name) => name.endsWith(".c") || name.endsWith(".h"))
    .sort()
    .map((name) => join(import.meta.dir, name));
}

/** Hash of everything the result depends on. */
async function hashSources(compiler: string, sources: readonly string[]): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  hasher.update([compiler, ...FLAGS].join("\0"));
  for (const source of sources) hasher.update(`\0${source}\0`).update(await Bun.file(source).arrayBuffer());
  return hasher.digest("hex").slice(0, 24);
}

async function compile(compiler: string, sources: readonly string[], outFile: string): Promise<void> {
  const inputs = sources.filter((source) => source.endsWith(".c"));
  const child = Bun.spawn([compiler, ...FLAGS, "-o", outFile, ...inputs], { stdout: "ignore", stderr: "pipe" });
  const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
  const [message, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  clearTimeout(timer);
  if (code === 0) return;
  const missing = /cannot find -lc|cannot find -l|libc\.a/.test(message);
  throw new AleError(
    "sandbox",
    `${compiler} could not compile the sandbox launcher:\n${message.trim().slice(0, 2000)}`,
    {
      hint: missing ? INSTALL_HINT : "report this with the compiler's version (`cc --version`)",
    },
  );
}

/** Path of the compiled launcher in the cache, compiled now when its sources changed. */
export async function buildCachedLauncher(): Promise<string> {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new AleError("sandbox", `the sandbox launcher supports linux-x64, not ${process.platform}-${process.arch}`, {
      hint: "run Ale on 64-bit x86 Linux",
    });
  const compiler = Bun.which(process.env.CC || "cc") ?? Bun.which("gcc") ?? Bun.which("clang");
  if (compiler === null)
    throw new AleError("sandbox", "no C compiler was found for the sandbox launcher", { hint: INSTALL_HINT });
  const sources = await listSources();
  const folder = join(CACHE, await hashSources(compiler, sources));
  const file = join(folder, "ale-launcher");
  if (await Bun.file(file).exists()) return file;
  await mkdir(folder, { recursive: true });
  // Under a name of our own first: two builds at once must not run half a file.
  const partial = `${file}.${process.pid}`;
  await compile(compiler, sources, partial);
  await rename(partial, file);
  return file;
}

/**
 * Compiles the launcher to `outFile`. Takes about 2 s, or nothing when its sources did not change.
 * @throws AleError("sandbox") when there is no C compiler or no static C library; the hint says what to install.
 */
export async function buildLauncher(outFile: string): Promise<void> {
  const cached = await buildCachedLauncher();
  await Bun.write(outFile, Bun.file(cached));
  const { chmod } = await import("node:fs/promises");
  await chmod(outFile, 0o755);
}
