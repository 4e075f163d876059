/** What this machine allows sandboxes to be made of, for `ale doctor`. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AleError, deadline, errorMessage } from "../core/errors.ts";
import { launcherPath } from "./launcher-path.ts";
import { namespaceHint } from "./namespace-hint.ts";
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
  "all namespaces": "the kernel lacks a kind of namespace, or a container forbids it: start it with --privileged",
  "overlay on tmpfs": "use Linux 5.11 or newer (overlay in a user namespace)",
  "overlay, replacing": "only folders of /usr that were removed cannot be made again; use Linux 6.6 or newer",
  "system call filter": "use a kernel with CONFIG_SECCOMP_FILTER",
  "id-mapped mounts": "run as root on Linux 5.12 or newer; without them the sandbox's /usr cannot be changed",
  landlock:
    "only needed where user namespaces are not permitted; boot with landlock among lsm=…, on Linux 5.13 or newer",
  "control groups":
    "memory and processes are limited by rlimits and a watcher, cpu is not; for hard limits run as root, " +
    "or in a delegated group: systemd-run --user --scope -p Delegate=yes ale …",
};
const NO_CPU_HINT =
  "cpu is not limited; delegate it, too: systemctl edit user@.service, there [Service] Delegate=cpu memory pids, and log in again";
const OPTIONAL = new Set(["overlay, replacing", "id-mapped mounts", "subordinate ids", "landlock", "control groups"]);
/** What is tried in a user namespace. */
const INSIDE = new Set(["all namespaces", "overlay on tmpfs", "overlay, replacing"]);
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
    const [primitives, whole] = [await probePrimitives(path), await probeWhole()];
    return [...primitives, ...sharedIds(whole), whole];
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
    const lines = text.split("\n").map((line) => line.split("\t"));
    const forbidden = lines.some(([name, ok]) => name === "user namespaces" && ok === "0");
    return lines.flatMap(([name, ok, detail]) => {
      if (name === undefined || ok === undefined || detail === undefined) return [];
      const hint = ok === "1" ? undefined : hintFor(name, detail, forbidden);
      const probe = { name, ok: ok === "1", detail, required: !OPTIONAL.has(name) };
      return [hint === undefined ? probe : { ...probe, hint }];
    });
  } finally {
    child.kill("SIGKILL");
  }
}

function hintFor(name: string, detail: string, forbidden: boolean): string | undefined {
  if (name === "user namespaces") return namespaceHint();
  if (name === "subordinate ids") return subordinateHint(detail);
  if (forbidden && INSIDE.has(name)) return "needs user namespaces";
  return detail.includes("-nocpu") ? NO_CPU_HINT : HINTS[name];
}

/** As root, where sandboxes have no ids of their own. */
function sharedIds({ detail }: SandboxProbe): SandboxProbe[] {
  if (!detail.startsWith("root+sharedids+")) return [];
  const hint =
    "run on Linux 6.3 or newer, and not in a container whose /usr is an overlay; until then sandboxes share what the kernel counts per user";
  return [{ name: "ids of their own", ok: false, required: false, detail: "all sandboxes have the same", hint }];
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
    return { name, ok, required: true, detail: ok ? `${sandbox.isolation}; ${times}` : `a command said ${output}` };
  } catch (error) {
    return failed(name, error);
  } finally {
    if (stateDir !== undefined) await rm(stateDir, { recursive: true, force: true });
  }
}
