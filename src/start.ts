/** The two ways a process of Ale goes on after `main.ts`: as the command line, or in a role. */

import { basename, resolve } from "node:path";
import { setEmbeddedExperiments } from "./config/embedded.ts";
import { AleError, errorMessage } from "./core/errors.ts";
import type { Role } from "./device/role.ts";
import { setEmbeddedModels } from "./models/policy-folder.ts";
import { isCompiled, shippedFiles, shippedTexts } from "./runtime/shipped.ts";
import { setLauncherPath } from "./sandbox/launcher-path.ts";
import { setProfileTexts } from "./sandbox/profile-texts.ts";
import { setEmbeddedTasks } from "./tasks/source.ts";

/** Entry of each role. */
const ROLES: Readonly<Record<Role, () => Promise<void>>> = {
  engine: async () => (await import("./device/engine.ts")).runEngine(),
  "self-test": async () => (await import("./device/self-test.ts")).runSelfTestRole(process.argv.at(-1) ?? ""),
  "reward-function": async () =>
    (await import("./reward/function-role.ts")).runRewardFunction(process.argv.at(-1) ?? ""),
};

/** Failed writes that are remembered; a run goes on for long after its reader has left. */
const MAX_FAILURES = 16;

/** Runs this process as `role` until its work is over; ends it with exit code 2 when there is no such role. */
export async function runRole(role: string): Promise<void> {
  process.on("uncaughtException", dieOf);
  const entry = Object.hasOwn(ROLES, role) ? ROLES[role as Role] : undefined;
  if (entry === undefined) throw new AleError("usage", `Ale has no role ${JSON.stringify(role)}`);
  registerShippedFiles();
  await entry();
}

/** Runs a command line and ends the process with its exit code once everything written has been taken. */
export async function runCommandLine(argv: readonly string[]): Promise<never> {
  process.on("uncaughtException", dieOf);
  const failures: NodeJS.ErrnoException[] = [];
  process.stdout.on("error", (error) => {
    if (failures.length < MAX_FAILURES) failures.push(error);
  });
  registerShippedFiles();
  const { runCli } = await import("./cli/program.ts");
  const code = await runCli(argv);
  await Promise.all([drained(process.stdout, failures), drained(process.stderr, [])]);
  process.exit(code === 0 ? reportLostOutput(failures) : code);
}

/** Hands the files that come with Ale to the parts that use them; large ones are read when they are asked for. */
function registerShippedFiles(): void {
  setEmbeddedExperiments(shippedTexts("experiments"));
  setEmbeddedModels(shippedFiles("models"));
  if (isCompiled) setLauncherPath(async () => (await import("./runtime/natives.ts")).nativePath("ale-launcher"));
  const profiles = [...shippedTexts("sandboxes")].map(([path, text]) => [basename(path, ".toml"), text] as const);
  setProfileTexts(new Map(profiles), resolve("sandboxes"));
  setEmbeddedTasks(new Map([...shippedFiles("tasks")].map(([path, read]) => [path, read()])));
}

/** What nobody caught is a fault of Ale; one line names it instead of a page of bundled source. */
function dieOf(error: unknown): never {
  console.error(`error: ${errorMessage(error)}`);
  if (process.env.ALE_DEBUG && error instanceof Error) console.error(error.stack ?? "");
  process.exit(error instanceof AleError ? error.exitCode : 1);
}

/**
 * A result that nobody can read is not a success. The reader of a pipe that has left (`ale runs ls | head -1`) had enough,
 * and a terminal that was closed is no result's place. Returns the exit code.
 */
function reportLostOutput(failures: readonly NodeJS.ErrnoException[]): number {
  const lost = failures.find(({ code }) => code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG");
  if (lost === undefined) return 0;
  console.error(`error: the output could not be written: ${errorMessage(lost)}`);
  console.error("  next: free some space (df -h) where the output goes, and run the command again");
  return 1;
}

/** Waits until everything written was taken, or refused; what was refused is added to `failures`. */
function drained(stream: NodeJS.WriteStream, failures: NodeJS.ErrnoException[]): Promise<void> {
  return new Promise((resolve) =>
    stream.write("", (error) => {
      if (error) failures.push(error);
      // an error of an earlier write is announced after the callbacks
      setImmediate(resolve);
    }),
  );
}
