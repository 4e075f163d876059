/**
 * `bun run start [ARGUMENT …]`: installs and builds what is missing, then trains the shipped experiment in a run directory
 * of its own under `runs/`. Arguments are passed on to `ale run`.
 */

import { join } from "node:path";
import { REPOSITORY } from "./repository.ts";

/** Exit code of a run that was stopped and can be resumed. */
const INTERRUPTED = 130;
const EXPERIMENT = join("experiments", "shell.toml");

function stamp(now: Date): string {
  return now.toISOString().slice(0, 19).replace(/[-:]/g, "").replace("T", "-");
}

/** Runs a command in the repository on this terminal and returns its exit code. */
async function run(command: readonly string[]): Promise<number> {
  const child = Bun.spawn([...command], { cwd: REPOSITORY, stdio: ["inherit", "inherit", "inherit"] });
  // Ctrl-C reaches the child by itself, through the terminal; it saves and ends, and then so does this process.
  const ignore = () => {};
  const pass = () => void child.kill("SIGTERM");
  process.on("SIGINT", ignore);
  process.on("SIGTERM", pass);
  try {
    return await child.exited;
  } finally {
    process.off("SIGINT", ignore);
    process.off("SIGTERM", pass);
  }
}

async function main(argv: readonly string[]): Promise<number> {
  const built = await run([process.execPath, join("scripts", "build.ts")]);
  if (built !== 0) return built;
  const chosen = argv.some((argument) => argument === "--out" || argument.startsWith("--out="));
  const outDir = join("runs", `shell-${stamp(new Date())}`);
  const command = [join("dist", "ale"), "run", EXPERIMENT, ...(chosen ? [] : ["--out", outDir]), ...argv];
  console.log(`\n$ ${command.join(" ")}\n`);
  const exitCode = await run([join(REPOSITORY, command[0] as string), ...command.slice(1)]);
  if (exitCode === INTERRUPTED) console.log(`  (from ${REPOSITORY}, \`ale\` is dist/ale)`);
  return exitCode;
}

process.exitCode = await main(process.argv.slice(2));
