/**
 * The sandbox port on plain bash in a temporary folder, without any isolation: for unit tests that run commands we wrote.
 * `/work`, `/tests`, `/solution` and `/logs` in commands and scripts mean folders below the temporary one.
 */

import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { AleError } from "../../src/core/errors.ts";
import type { CommandOptions, CommandResult, LimitEvents, Sandbox, SandboxProvider } from "../../src/core/ports.ts";
import type { SandboxFile, Task } from "../../src/core/types.ts";

export class PlainBashSandbox implements Sandbox {
  readonly id = "plain-bash";
  readonly isolation = "none";
  readonly root = mkdtempSync(join(tmpdir(), "ale-plain-"));
  /** What `limitEvents` reports; tests set it to stand for a limit of the machine. */
  limits: LimitEvents = { memory: 0, pids: 0, disk: 0 };
  #gone = false;

  snapshot(): Promise<never> {
    throw new Error("a plain bash has no snapshots");
  }

  constructor() {
    for (const folder of ["work", "logs/verifier"]) mkdirSync(join(this.root, folder), { recursive: true });
  }

  async upload(folder: string, files: readonly SandboxFile[]): Promise<void> {
    for (const { path, content, mode } of files) {
      const target = join(this.root, folder, path);
      mkdirSync(dirname(target), { recursive: true });
      const script = folder !== "/work" && path.endsWith(".sh");
      writeFileSync(target, script ? this.#inside(new TextDecoder().decode(content)) : content);
      chmodSync(target, mode);
    }
  }

  run(command: string, options: CommandOptions): Promise<CommandResult> {
    return this.exec(["bash", "--norc", "-c", this.#inside(command)], { ...options, cwd: "/work" });
  }

  async exec(argv: readonly string[], options: CommandOptions & { readonly cwd: string }): Promise<CommandResult> {
    if (this.#gone) throw new AleError("sandbox", "the sandbox is gone");
    const started = performance.now();
    const child = Bun.spawn({
      cmd: [...argv],
      cwd: join(this.root, options.cwd),
      env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: options.timeoutMs,
      killSignal: "SIGKILL",
    });
    const [out, err] = await Promise.all([
      Bun.readableStreamToBytes(child.stdout),
      Bun.readableStreamToBytes(child.stderr),
      child.exited,
    ]);
    const output = Buffer.concat([err, out]);
    const timedOut = child.signalCode === "SIGKILL";
    return {
      exitCode: timedOut ? null : child.exitCode,
      output: output.subarray(0, options.maxOutputBytes),
      outputBytes: output.length,
      truncated: output.length > options.maxOutputBytes,
      status: timedOut ? "timeout" : output.length > 64 * options.maxOutputBytes ? "output_limit" : "exited",
      ms: performance.now() - started,
    };
  }

  async readFile(path: string): Promise<Uint8Array | null> {
    try {
      return readFileSync(join(this.root, path));
    } catch {
      return null;
    }
  }

  async killAll(): Promise<void> {}

  async exportFolder(): Promise<Uint8Array> {
    throw new AleError("sandbox", "plain bash has no archives");
  }

  async importFolder(): Promise<void> {
    throw new AleError("sandbox", "plain bash has no archives");
  }

  async limitEvents(): Promise<LimitEvents> {
    return this.limits;
  }

  async destroy(): Promise<void> {
    this.#gone = true;
    rmSync(this.root, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }

  #inside(text: string): string {
    return text.replaceAll(/(?<![\w.])\/(?=(?:work|tests|solution|logs)\b)/g, `${this.root}/`);
  }
}

export class PlainBashProvider implements SandboxProvider {
  fork(): Promise<never> {
    throw new Error("a plain bash has no snapshots");
  }

  readonly isolation = "none";

  async create(): Promise<Sandbox> {
    return new PlainBashSandbox();
  }

  warm(): void {}

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Runs `tests/test.sh` in the same folder and reads the reward. */
export async function gradePlainly(
  _provider: SandboxProvider,
  sandbox: Sandbox,
  task: Task,
): Promise<{ readonly reward: number; readonly error?: string }> {
  await sandbox.upload("/tests", task.tests);
  await sandbox.run("bash /tests/test.sh", { timeoutMs: 5000, maxOutputBytes: 4096 });
  const reward = await sandbox.readFile("/logs/verifier/reward.txt", 4096);
  if (reward === null) return { reward: 0, error: "no reward" };
  return { reward: Number(new TextDecoder().decode(reward)) };
}

/** The reward of a task after these commands. */
export async function rewardOf(task: Task, commands: readonly string[]): Promise<number> {
  await using sandbox = new PlainBashSandbox();
  await sandbox.upload(task.environment.workdir, task.files);
  for (const command of commands) await sandbox.run(command, { timeoutMs: 5000, maxOutputBytes: 4096 });
  return (await gradePlainly(new PlainBashProvider(), sandbox, task)).reward;
}
