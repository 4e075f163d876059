/** `bun run build`: makes `dist/ale`, one executable for Linux on x86-64. */

import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { AleError } from "../src/core/errors.ts";
import { ensureInstalled } from "./install.ts";
import { REPOSITORY } from "./repository.ts";

/** Returns the exit code. */
async function build(outFile: string): Promise<number> {
  const started = performance.now();
  // A process that looked for packages before they were there goes on missing them, so the build starts afresh.
  if (ensureInstalled()) {
    return Bun.spawnSync([process.execPath, import.meta.path], { stdio: ["ignore", "inherit", "inherit"] }).exitCode;
  }
  // These import sources that need the installed packages.
  const { stageEmbeds } = await import("./build/stage.ts");
  const { bundleExecutable } = await import("./build/bundle.ts");
  const { disarmEnvironmentNames } = await import("./build/environment-names.ts");

  const draft = join(REPOSITORY, ".build", "ale");
  await bundleExecutable(await stageEmbeds(), draft);
  const executable = readFileSync(draft);
  const counts = disarmEnvironmentNames(executable);
  writeFileSync(draft, executable);
  chmodSync(draft, 0o755);
  mkdirSync(join(outFile, ".."), { recursive: true });
  renameSync(draft, outFile);

  const disarmed = [...counts].map(([name, count]) => `${name} ×${count}`).join(", ");
  console.log(`ignored variables: ${disarmed}`);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const megabytes = (statSync(outFile).size / 1e6).toFixed(1);
  console.log(`${relative(process.cwd(), outFile)}  ${megabytes} MB  built in ${seconds} s`);
  return 0;
}

try {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(`Ale is built for Linux on x86-64; this is ${process.platform} on ${process.arch}`);
  }
  process.exitCode = await build(join(REPOSITORY, "dist", "ale"));
} catch (error) {
  rmSync(join(REPOSITORY, ".build", "ale"), { force: true });
  console.error(`build failed: ${error instanceof Error ? error.message : error}`);
  if (error instanceof AleError && error.hint !== undefined) console.error(`  next: ${error.hint}`);
  process.exitCode = 1;
}
