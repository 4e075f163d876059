/** What the sandbox tests share: one environment, providers in folders of their own, results as text. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CommandOptions, CommandResult, Sandbox } from "../../src/core/ports.ts";
import type { EnvironmentSpec, SandboxFile } from "../../src/core/types.ts";
import { createContainerProvider } from "../../src/sandbox/backends/container-provider.ts";
import type { Clock } from "../../src/sandbox/service/clock.ts";
import {
  createSandboxProvider,
  type NativeSandboxProvider,
  type SandboxProviderOptions,
} from "../../src/sandbox/supervisor.ts";

export const ENVIRONMENT: EnvironmentSpec = {
  profile: "host",
  workdir: "/work",
  cpus: 1,
  memoryBytes: 64 << 20,
  diskBytes: 16 << 20,
  pids: 32,
};

/** Long, for the sake of busy machines; tests of time-outs give their own. */
export const LIMITS: CommandOptions = { timeoutMs: 20_000, maxOutputBytes: 8192 };

/** Subordinate ids of the user that runs the tests, as `as-user.test.ts` says; 0: none. */
export const SUBIDS = Number(process.env.ALE_TEST_SUBIDS ?? 0);
/** Users besides root exist only where ids can be mapped. */
export const manyUsers = process.getuid?.() === 0 || SUBIDS > 0;

export interface TestProvider extends NativeSandboxProvider {
  readonly stateDir: string;
}

/** With `ALE_TEST_BACKEND` podman or docker the sandboxes are containers: what holds for sandboxes holds for them. */
export async function openProvider(
  options: Partial<Omit<SandboxProviderOptions, "stateDir">> = {},
): Promise<TestProvider> {
  const stateDir = await mkdtemp(join(tmpdir(), "ale-sandbox-test-"));
  const engine = process.env.ALE_TEST_BACKEND;
  const provider =
    engine === "podman" || engine === "docker"
      ? await createContainerProvider({ engine, maskPaths: options.maskPaths ?? [] })
      : await createSandboxProvider({ maskPaths: [], stateDir, ...options });
  const close = provider.close.bind(provider);
  return Object.assign(provider, {
    stateDir,
    close: async () => {
      await close();
      await rm(stateDir, { recursive: true, force: true });
    },
  });
}

export const text = (bytes: Uint8Array | null): string => (bytes === null ? "<none>" : new TextDecoder().decode(bytes));

export function file(path: string, content: string | Uint8Array, mode = 0o644): SandboxFile {
  return { path, mode, content: typeof content === "string" ? new TextEncoder().encode(content) : content };
}

/** Runs a command and returns what it printed, whatever its exit code. */
export async function output(sandbox: Sandbox, command: string, options = LIMITS): Promise<string> {
  return text((await sandbox.run(command, options)).output);
}

/** `[exit code, output]` of a command. */
export async function outcome(sandbox: Sandbox, command: string): Promise<[number | null, string]> {
  const result: CommandResult = await sandbox.run(command, LIMITS);
  return [result.exitCode, text(result.output)];
}

/** A small static program of the tests' own, from `name`.c here. */
export async function compileProbe(name = "probe"): Promise<Uint8Array> {
  const source = join(import.meta.dir, `${name}.c`);
  const folder = await mkdtemp(join(tmpdir(), "ale-probe-"));
  const target = join(folder, "probe");
  const child = Bun.spawnSync(["cc", "-static", "-O1", "-o", target, source, "-lrt"], { timeout: 60_000 });
  if (child.exitCode !== 0) throw new Error(`cc failed: ${child.stderr.toString()}`);
  const bytes = new Uint8Array(await Bun.file(target).arrayBuffer());
  await rm(folder, { recursive: true, force: true });
  return bytes;
}

/** Waits until `condition` holds; fails with `what` after `ms`. */
export async function until(what: string, ms: number, condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + ms;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`${what} did not come true within ${ms} ms`);
    await Bun.sleep(10);
  }
}

/** Time that passes when it is told to. */
export class TestClock implements Clock {
  #now = Date.now();
  #timers = new Set<{ readonly at: number; readonly run: () => void }>();
  now = (): number => this.#now;
  after = (ms: number, run: () => void): (() => void) => {
    const timer = { at: this.#now + ms, run };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  };
  pass(ms: number): void {
    this.#now += ms;
    for (const timer of [...this.#timers]) if (timer.at <= this.#now && this.#timers.delete(timer)) timer.run();
  }
}
