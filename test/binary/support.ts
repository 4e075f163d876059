/** What the tests of the executable share: the executable itself, places to run it in, and how to measure it. */

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const REPOSITORY: string = resolve(import.meta.dir, "..", "..");
const BUILD_MS = 300_000;
const COMMAND_MS = 60_000;

/** Path of `dist/ale`; built when there is none. */
export function executable(): string {
  const path = join(REPOSITORY, "dist", "ale");
  if (!existsSync(path)) {
    const { exitCode, stderr } = Bun.spawnSync([process.execPath, "scripts/build.ts"], {
      cwd: REPOSITORY,
      timeout: BUILD_MS,
    });
    if (exitCode !== 0) throw new Error(`the build failed: ${stderr}`);
  }
  return path;
}

export interface Result {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly ms: number;
}

/** Runs a command with nothing but `env` in its environment, `cwd` defaulting to an unrelated folder. */
export function run(
  command: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly cwd?: string; readonly timeoutMs?: number } = {},
): Result {
  const started = performance.now();
  const { exitCode, stdout, stderr } = Bun.spawnSync([...command], {
    env: { PATH: process.env.PATH ?? "/usr/bin:/bin", ...options.env },
    cwd: options.cwd ?? tmpdir(),
    stdin: "ignore",
    timeout: options.timeoutMs ?? COMMAND_MS,
    killSignal: "SIGKILL",
  });
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString(), ms: performance.now() - started };
}

/** A folder that is removed at the end of the block: `using folder = temporaryFolder()`. */
export function temporaryFolder(): Disposable & { readonly path: string; make(...names: string[]): string } {
  const path = mkdtempSync(join(tmpdir(), "ale-binary-"));
  return {
    path,
    make: (...names) => {
      const folder = join(path, ...names);
      mkdirSync(folder, { recursive: true });
      return folder;
    },
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** One check of `ale doctor --json`. */
export interface DoctorCheck {
  readonly section: string;
  readonly name: string;
  readonly ok: boolean;
  readonly required: boolean;
  readonly detail: string;
}

/** The checks in the output of `ale doctor --json`. @throws Error with all output when there is no such JSON. */
export function doctorChecks(result: Result): readonly DoctorCheck[] {
  try {
    return (JSON.parse(result.stdout) as { checks: DoctorCheck[] }).checks;
  } catch {
    throw new Error(`no JSON from ale doctor (exit code ${result.exitCode}):\n${result.stdout}\n${result.stderr}`);
  }
}

export function check(checks: readonly DoctorCheck[], name: string): DoctorCheck {
  const found = checks.find((entry) => entry.name === name);
  if (found === undefined) throw new Error(`ale doctor has no check ${name}: ${checks.map((entry) => entry.name)}`);
  return found;
}

/** Why a test cannot run here, or nothing. Printed, so that a skipped test is seen. */
export type Obstacle = string | undefined;

/** `unshare` with a private mount namespace, as root or as root of a user namespace. */
export function mountNamespace(...flags: readonly string[]): string[] {
  const user = process.getuid?.() === 0 ? [] : ["--map-root-user"];
  return ["unshare", "--mount", "--propagation", "private", ...user, ...flags];
}

export function mountNamespaceObstacle(...flags: readonly string[]): Obstacle {
  if (Bun.which("unshare") === null) return "unshare (util-linux) is not installed";
  const { exitCode, stderr } = run([...mountNamespace(...flags), "mount", "-t", "tmpfs", "none", "/mnt"]);
  return exitCode === 0 ? undefined : `namespaces cannot be made here: ${stderr.trim()}`;
}

export function toolObstacle(...tools: readonly string[]): Obstacle {
  const missing = tools.filter((tool) => Bun.which(tool) === null);
  return missing.length === 0 ? undefined : `${missing.join(", ")} is not installed`;
}

/** The test's name; a test that cannot run says why. */
export function titled(name: string, obstacle: Obstacle): string {
  if (obstacle === undefined) return name;
  console.log(`skipped: ${name}: ${obstacle}`);
  return `${name} (skipped: ${obstacle})`;
}

/** Arguments of the shipped experiment, cut to two steps. */
export function shortRun(outDir: string): string[] {
  return [
    ...["run", "experiments/shell.toml", "--out", outDir, "--json", "--seed", "5", "--service.port", "0"],
    ...["--trainer.steps", "2", "--rollout.groups", "2", "--rollout.groupSize", "4"],
    ...["--evaluation.every", "2", "--evaluation.dev", "14", "--evaluation.heldout", "14"],
  ];
}

/** `shortRun` needs the policy that the experiment names. */
export function shippedPolicyObstacle(): Obstacle {
  const config = readFileSync(join(REPOSITORY, "experiments", "shell.toml"), "utf8");
  const path = /^path = "(.+)"$/m.exec(config)?.[1];
  return path !== undefined && existsSync(join(REPOSITORY, path)) ? undefined : `${path} is not there yet`;
}
