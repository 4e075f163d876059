/**
 * Other programs that isolate a command, where they are installed, doing what the cold case does: `bash -c 'echo ready'` with
 * this machine's /usr read-only, an empty folder to write to, no network. Each is tried once; what cannot be used is said.
 */

import { closeSync, openSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AleError, errorMessage } from "../../../core/errors.ts";
import { launcherPath } from "../../../sandbox/launcher-path.ts";
import { hardLimits } from "./machine.ts";
import type { Side, Use } from "./sides.ts";

export interface Peers extends AsyncDisposable {
  readonly sides: readonly Side[];
}

const COMMAND = ["/bin/bash", "-c", "echo ready"];
const LINKS = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];
const FOLDERS = ["usr", "proc", "dev", "sys", "tmp", "work", "etc", "run", "root"];
const PEER_MS = 30_000;
/** They take 30 to 200 ms each. */
const RUNC_EVERY = 4;
const PODMAN_EVERY = 12;
/** It lowers its own limit before it sets the container's. */
const PODMAN_PROCESSES = 4096;

interface Peer {
  readonly backend: string;
  readonly program: string;
  readonly every?: number;
  /** Prepares it in a folder of its own. Returns the command line, and what to open as descriptor 3. */
  readonly prepare: (folder: string) => Promise<Prepared>;
}

interface Prepared {
  readonly argv: () => readonly string[];
  readonly input?: string;
}

const PEERS: readonly Peer[] = [
  { backend: "bwrap", program: "bwrap", prepare: prepareBubblewrap },
  { backend: "runc", program: "runc", every: RUNC_EVERY, prepare: prepareRunc },
  { backend: "podman", program: "podman", every: PODMAN_EVERY, prepare: preparePodman },
];

/** Tries each peer, and says by `note` which are left out and why. Disposing removes what they needed. */
export async function openPeers(note: (message: string) => void): Promise<Peers> {
  const folder = await mkdtemp(join(tmpdir(), "ale-bench-"));
  const sides: Side[] = [];
  for (const peer of PEERS) {
    try {
      sides.push(await openPeer(peer, join(folder, peer.backend)));
    } catch (error) {
      note(`without ${peer.backend}: ${errorMessage(error)}`);
    }
  }
  return { sides, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
}

async function openPeer({ backend, program, every, prepare }: Peer, folder: string): Promise<Side> {
  if (Bun.which(program) === null) throw new AleError("usage", "it is not installed");
  await mkdir(folder, { recursive: true });
  const { argv, input } = await prepare(folder);
  const use = (signal: AbortSignal) => runPeer(argv(), input, signal);
  await use(AbortSignal.timeout(PEER_MS));
  return { backend, use, ...(every !== undefined && { every }) };
}

/** @throws AleError("sandbox") with what the program complained of. */
async function runPeer(argv: readonly string[], input: string | undefined, signal: AbortSignal): Promise<Use> {
  const descriptor = input === undefined ? undefined : openSync(input, "r");
  try {
    const started = performance.now();
    const child = Bun.spawn([...argv], {
      stdio: ["ignore", "pipe", "pipe", ...(descriptor === undefined ? [] : [descriptor])],
      timeout: PEER_MS,
      killSignal: "SIGKILL",
    });
    const stop = () => child.kill();
    signal.addEventListener("abort", stop, { once: true });
    const complaint = new Response(child.stderr).text();
    const reader = child.stdout.getReader();
    const decoder = new TextDecoder();
    let said = "";
    let first = Number.NaN;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (said === "") first = performance.now() - started;
      said += decoder.decode(part.value, { stream: true });
    }
    const code = await child.exited;
    const total = performance.now() - started;
    signal.removeEventListener("abort", stop);
    if (said === "ready\n" && code === 0) return { first, total };
    signal.throwIfAborted();
    const last = (await complaint).trim().split("\n").at(-1) ?? "";
    throw new AleError("sandbox", `${argv[0]} ended with code ${code}: ${last}`);
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

/** bubblewrap, isolated as far as it goes, with the filter of our own sandboxes. */
async function prepareBubblewrap(folder: string): Promise<Prepared> {
  const filter = join(folder, "filter");
  const made = Bun.spawnSync([await launcherPath(), "filter"], { timeout: PEER_MS });
  if (made.exitCode !== 0) throw new AleError("sandbox", "the launcher did not write its filter");
  await writeFile(filter, made.stdout);
  const links = (await presentLinks()).flatMap(([name, target]) => ["--symlink", target, `/${name}`]);
  const argv = [
    ...["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"],
    ...["--ro-bind", "/usr", "/usr", ...links, "--proc", "/proc", "--dev", "/dev"],
    ...["--tmpfs", "/tmp", "--tmpfs", "/work", "--chdir", "/work", "--seccomp", "3"],
    ...COMMAND,
  ];
  return { argv: () => argv, input: filter };
}

/** The links of this machine's root into /usr. */
async function presentLinks(): Promise<(readonly [string, string])[]> {
  const { readlink } = await import("node:fs/promises");
  const found = await Promise.all(
    LINKS.map(async (name) => [name, await readlink(`/${name}`).catch(() => "")] as const),
  );
  return found.filter(([, target]) => target !== "");
}

/** An empty root with places for mounts. */
async function makeRoot(folder: string): Promise<string> {
  const root = join(folder, "root");
  for (const name of FOLDERS) await mkdir(join(root, name), { recursive: true });
  for (const [name, target] of await presentLinks()) await symlink(target, join(root, name));
  return root;
}

let nextName = 1;

/** runc with all namespaces; as an ordinary user, with a user namespace, too. Without a seccomp filter. */
async function prepareRunc(folder: string): Promise<Prepared> {
  const root = await makeRoot(folder);
  const rootless = process.getuid?.() !== 0;
  const tmpfs = (destination: string) => ({
    destination,
    type: "tmpfs",
    source: "tmpfs",
    options: ["nosuid", "nodev"],
  });
  const map = (id: number | undefined) => [{ containerID: 0, hostID: id ?? 0, size: 1 }];
  const namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup", ...(rootless ? ["user"] : [])];
  const config = {
    ociVersion: "1.0.2",
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: COMMAND,
      env: ["PATH=/usr/bin:/bin"],
      cwd: "/work",
      noNewPrivileges: true,
    },
    root: { path: root, readonly: true },
    hostname: "sandbox",
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { ...tmpfs("/dev"), options: ["nosuid", "mode=755"] },
      { destination: "/usr", type: "bind", source: "/usr", options: ["rbind", "ro"] },
      tmpfs("/tmp"),
      tmpfs("/work"),
    ],
    linux: {
      namespaces: namespaces.map((type) => ({ type })),
      ...(rootless && { uidMappings: map(process.getuid?.()), gidMappings: map(process.getgid?.()) }),
    },
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  const state = join(folder, "state");
  return { argv: () => ["runc", "--root", state, "run", "--bundle", folder, `ale-bench-${process.pid}-${nextName++}`] };
}

/** `podman run` of a root folder, so that no image is needed, with state of its own. */
async function preparePodman(folder: string): Promise<Prepared> {
  const root = await makeRoot(folder);
  const state = ["--root", join(folder, "storage"), "--runroot", join(folder, "run"), "--storage-driver", "vfs"];
  const run = ["run", "--rm", "--network=none", "--volume", "/usr:/usr:ro"];
  const argv = (extra: readonly string[]) => ["podman", ...state, ...run, ...extra, "--rootfs", root, ...COMMAND];
  try {
    await runPeer(argv([]), undefined, AbortSignal.timeout(PEER_MS));
    return { argv: () => argv([]) };
  } catch (error) {
    // Its default limits are above what a root without CAP_SYS_RESOURCE may set.
    if (!/rlimit/.test(errorMessage(error))) throw error;
    const { files, processes } = await hardLimits();
    const most = Math.min(processes, PODMAN_PROCESSES);
    const extra = ["--ulimit", `nofile=1024:${files}`, "--ulimit", `nproc=${most}:${most}`];
    return { argv: () => argv(extra) };
  }
}
