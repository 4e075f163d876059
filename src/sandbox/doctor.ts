/** What this machine allows sandboxes to be made of, for `ale doctor`. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AleError, deadline, errorMessage } from "../core/errors.ts";
import { launcherPath } from "./launcher-path.ts";
import { subordinateHint } from "./subordinate-ids.ts";
import { createSandboxProvider } from "./supervisor.ts";

/** One thing looked at; `hint` says what to do when it is not `ok`. */
export interface SandboxProbe {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly hint?: string;
  /** False: sandboxes work without it, at a lower level. */
  readonly required: boolean;
}

const HINTS: Readonly<Record<string, string>> = {
  "user namespaces":
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); sysctl -w user.max_user_namespaces=65536; " +
    "in a container, start it with --privileged; or allow ordinary users weaker sandboxes: --least-isolation landlock",
  "all namespaces": "the kernel lacks a kind of namespace, or a container forbids it: start it with --privileged",
  "overlay on tmpfs": "use Linux 6.6 or newer (overlay in a user namespace with user.* attributes on tmpfs)",
  "system call filter": "use a kernel with CONFIG_SECCOMP_FILTER",
  "id-mapped mounts": "run as root on Linux 5.12 or newer; without them the sandbox's /usr cannot be changed",
  landlock:
    "only needed where user namespaces are not permitted; boot with landlock among lsm=…, on Linux 5.13 or newer",
  "control groups":
    "memory and processes are limited by rlimits and a watcher, cpu is not; for hard limits run as root, " +
    "or in a delegated group: systemd-run --user --scope -p Delegate=yes ale …",
};
const OPTIONAL = new Set(["id-mapped mounts", "subordinate ids", "landlock", "control groups"]);
const PROBE_MS = 10_000;

/** Tries each primitive, then one whole sandbox. Takes well under a second once the launcher is compiled. */
export async function probeSandbox(): Promise<SandboxProbe[]> {
  let path: string;
  try {
    path = await launcherPath();
  } catch (error) {
    return [failed("sandbox launcher", error)];
  }
  try {
    return [...(await probePrimitives(path)), await probeWhole()];
  } catch (error) {
    return [failed("sandbox launcher", error)];
  }
}

function failed(name: string, error: unknown): SandboxProbe {
  const hint = error instanceof AleError ? error.hint : undefined;
  return { name, ok: false, required: true, detail: errorMessage(error), ...(hint === undefined ? {} : { hint }) };
}

async function probePrimitives(path: string): Promise<SandboxProbe[]> {
  const child = Bun.spawn([path, "probe"], { stdout: "pipe", stderr: "ignore", stdin: "ignore", env: {} });
  try {
    const text = await deadline("the sandbox launcher's probe", PROBE_MS, new Response(child.stdout).text(), "sandbox");
    return text.split("\n").flatMap((line) => {
      const [name, ok, detail] = line.split("\t");
      if (name === undefined || ok === undefined || detail === undefined) return [];
      const hint = ok === "1" ? undefined : name === "subordinate ids" ? subordinateHint(detail) : HINTS[name];
      const probe = { name, ok: ok === "1", detail, required: !OPTIONAL.has(name) };
      return [hint === undefined ? probe : { ...probe, hint }];
    });
  } finally {
    child.kill("SIGKILL");
  }
}

/** A folder for a moment; a bare machine may lack a temporary one. */
async function makeStateDir(): Promise<string> {
  let problem: unknown;
  for (const parent of [tmpdir(), process.cwd(), "/"]) {
    try {
      return await mkdtemp(join(parent, "ale-doctor-"));
    } catch (error) {
      problem ??= error;
    }
  }
  throw new AleError("sandbox", `no folder can be made in ${tmpdir()}: ${errorMessage(problem)}`, {
    hint: "set TMPDIR to a folder you may write to",
  });
}

/** A sandbox from nothing to nothing, with a command in it. */
async function probeWhole(): Promise<SandboxProbe> {
  const name = "sandbox";
  let stateDir: string | undefined;
  try {
    stateDir = await makeStateDir();
    await using provider = await createSandboxProvider({ maskPaths: [], stateDir });
    const started = performance.now();
    await using sandbox = await provider.create({
      profile: "host",
      workdir: "/work",
      cpus: 1,
      memoryBytes: 64 << 20,
      diskBytes: 16 << 20,
      pids: 32,
    });
    const result = await sandbox.run("echo ready", { timeoutMs: 5000, maxOutputBytes: 256 });
    const first = performance.now() - started;
    await sandbox.destroy();
    const all = performance.now() - started;
    const output = new TextDecoder().decode(result.output);
    const ok = result.exitCode === 0 && output === "ready\n";
    const times = `first output after ${first.toFixed(1)} ms, gone after ${all.toFixed(1)} ms`;
    return { name, ok, required: true, detail: ok ? `${provider.isolation}; ${times}` : `a command said ${output}` };
  } catch (error) {
    return failed(name, error);
  } finally {
    if (stateDir !== undefined) await rm(stateDir, { recursive: true, force: true });
  }
}
