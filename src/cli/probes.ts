/** What `ale doctor` finds out about the machine itself; sandbox and native libraries have probes of their own. */

import { accessSync, constants, mkdirSync, readFileSync, statfsSync, unlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { availableParallelism, freemem, totalmem } from "node:os";
import { join } from "node:path";
import { aleHome } from "../config/paths.ts";
import { errorMessage } from "../core/errors.ts";
import { formatBytes } from "../tui/format.ts";

/** One line of `ale doctor`. */
export interface Probe {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  /** The fix, ideally a command; shown when the probe is not ok. */
  readonly hint?: string | undefined;
  /** Without it Ale cannot do its work; other probes only advise. Default true. */
  readonly required?: boolean | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Below this, a run of the shipped experiment would be killed for want of memory. */
const MIN_MEMORY = 1.5e9;
const MIN_DISK = 500e6;
/** Pipes, sockets and shared memory of 256 episodes in flight. */
const MIN_FILES = 4096;

export function probeCpu(): Probe[] {
  const cores = availableParallelism();
  const flags = /^flags\s*:(.*)$/m.exec(readText("/proc/cpuinfo"))?.[1]?.split(" ") ?? [];
  const vector = ["avx512f", "avx2", "avx"].find((flag) => flags.includes(flag));
  return [
    { name: "cores", ok: cores >= 2, required: false, detail: `${cores}`, hint: "two or more make runs much faster" },
    {
      name: "engines",
      ok: true,
      detail: `one with ${cores} ${cores === 1 ? "thread" : "threads"}; engine.devices in an experiment asks for more`,
    },
    {
      name: "vector unit",
      ok: vector !== undefined && vector !== "avx",
      required: false,
      detail: vector ?? (flags.length === 0 ? "unknown: /proc/cpuinfo says nothing" : "no AVX"),
      hint: "training works but is slow without AVX2; in a virtual machine pass the host's processor through",
    },
  ];
}

export function probeMemory(): Probe {
  const limit = memoryLimit();
  const total = Math.min(totalmem(), limit ?? Number.POSITIVE_INFINITY);
  const source = limit !== undefined && limit < totalmem() ? "control-group limit" : "installed";
  return {
    name: "memory",
    ok: total >= MIN_MEMORY,
    required: false,
    detail: `${formatBytes(total)} ${source}, ${formatBytes(Math.min(freemem(), total))} free`,
    hint: `the shipped experiment needs ${formatBytes(MIN_MEMORY)}; lower --rollout.concurrency and --sandbox.warm`,
  };
}

function memoryLimit(): number | undefined {
  for (const file of ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]) {
    const limit = Number.parseInt(readText(file), 10);
    if (Number.isFinite(limit)) return limit;
  }
  return undefined;
}

export function probeOpenFiles(): Probe {
  const [, soft, hard] =
    /^Max open files\s+(\d+|unlimited)\s+(\d+|unlimited)/m.exec(readText("/proc/self/limits")) ?? [];
  const limit = soft === undefined || soft === "unlimited" ? Number.POSITIVE_INFINITY : Number(soft);
  return {
    name: "open files",
    ok: limit >= MIN_FILES,
    required: false,
    detail: soft === undefined ? "unknown: /proc is not readable" : `limit ${soft}, may be raised to ${hard}`,
    hint: `ulimit -n ${MIN_FILES}`,
  };
}

/** Is the folder there (or can be made), writable, and is there space? */
export function probeFolder(name: string, folder: string, required: boolean): Probe {
  const hint = `set ${name === "home" ? "ALE_HOME" : "TMPDIR"} to a folder you may write to with ${formatBytes(MIN_DISK)} free`;
  try {
    mkdirSync(folder, { recursive: true });
    const file = join(folder, `.ale-doctor-${process.pid}`);
    writeFileSync(file, "");
    unlinkSync(file);
    const { bavail, bsize } = statfsSync(folder);
    const free = bavail * bsize;
    const detail = `${folder}, ${formatBytes(free)} free`;
    return { name, ok: free >= MIN_DISK, required: false, detail, hint };
  } catch (error) {
    return { name, ok: false, required, detail: `${folder}: ${errorMessage(error)}`, hint };
  }
}

/** The folder of a store that may not exist yet. */
export function probeHome(env: Environment): Probe[] {
  const home = probeFolder("home", aleHome(env), false);
  const note = env.ALE_HOME || env.XDG_DATA_HOME || env.HOME ? [] : [homelessProbe(env)];
  return [home, ...note];
}

function homelessProbe(env: Environment): Probe {
  return {
    name: "HOME",
    ok: false,
    required: false,
    detail: `not set; runs are kept in ${aleHome(env)}, which a restart may empty`,
    hint: "set HOME or ALE_HOME",
  };
}

export function probeWorkingFolder(): Probe {
  const folder = process.cwd();
  try {
    accessSync(folder, constants.W_OK);
    return { name: "working folder", ok: true, required: false, detail: `${folder} is writable` };
  } catch (error) {
    return {
      name: "working folder",
      ok: false,
      required: false,
      detail: errorMessage(error),
      hint: "runs go to ./runs by default; give a run directory with --out DIR",
    };
  }
}

/** Can the dashboard listen where it does by default? */
export async function probePort(port: number): Promise<Probe> {
  const error = await new Promise<Error | undefined>((resolve) => {
    const server = createServer();
    server.once("error", resolve);
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(undefined)));
  });
  return {
    name: `port ${port}`,
    ok: error === undefined,
    required: false,
    detail: error === undefined ? "free on 127.0.0.1" : errorMessage(error),
    hint: "another program (or another run) listens there; use --service.port 0 for a free port",
  };
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // The probes say "unknown" where a file cannot be read.
  }
}
