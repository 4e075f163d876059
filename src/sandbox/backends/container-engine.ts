/** podman and docker: whether they are here, and with which flags they work on this machine. */

import { existsSync, readFileSync } from "node:fs";
import { AleError, errorMessage } from "../../core/errors.ts";

export type ContainerEngineName = "podman" | "docker";

export interface ContainerEngine {
  readonly name: ContainerEngineName;
  /** The program. */
  readonly path: string;
  readonly version: string;
  /** An ordinary user runs it. */
  readonly rootless: boolean;
  /** Flags of `run` that this machine needs. */
  readonly flags: readonly string[];
}

const INFO_MS = 30_000;
/** As in `launcher/broker.c`: what a sandbox's ids are on the host. */
const FIRST_ID = 100_000;
const ID_COUNT = 65_536;

const INSTALL: Readonly<Record<ContainerEngineName, string>> = {
  podman: "Debian/Ubuntu `apt-get install podman runc`, Fedora `dnf install podman`",
  docker: "Debian/Ubuntu `apt-get install docker.io`, or docs.docker.com/engine/install",
};

/** What `engine` says, as text. @throws AleError("sandbox") with what it wrote when it fails or takes longer than `ms`. */
export async function askEngine(
  path: string,
  args: readonly string[],
  what: string,
  ms: number,
  stdin?: Uint8Array<ArrayBuffer>,
): Promise<string> {
  const child = Bun.spawn([path, ...args], {
    ...{ stdin: stdin ?? "ignore", stdout: "pipe", stderr: "pipe", cwd: "/", timeout: ms, killSignal: "SIGKILL" },
  });
  const [out, told, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code === 0) return out;
  const why = child.signalCode === "SIGKILL" ? `it took more than ${ms / 1000} s` : lastLines(told);
  throw new AleError("sandbox", `${what}: ${why === "" ? `it ended with code ${code}` : why}`);
}

function lastLines(text: string): string {
  return text.trim().split("\n").slice(-3).join(" ").slice(0, 1000);
}

/**
 * Looks for the engine and what it needs here.
 * @throws AleError("sandbox") when it is not installed, does not answer, or cannot work on this machine.
 */
export async function findContainerEngine(name: ContainerEngineName): Promise<ContainerEngine> {
  const path = Bun.which(name);
  if (path === null) throw new AleError("sandbox", `${name} is not installed`, { hint: INSTALL[name] });
  return name === "podman" ? findPodman(path) : findDocker(path);
}

const DOCKER_HINT = "start its service: systemctl start docker; and belong to the group docker";

interface PodmanInfo {
  readonly version?: { readonly Version?: string };
  readonly host?: {
    readonly cgroupVersion?: string;
    readonly ociRuntime?: { readonly name?: string };
    readonly security?: { readonly rootless?: boolean };
    readonly idMappings?: { readonly uidmap?: readonly IdRange[] | null; readonly gidmap?: readonly IdRange[] | null };
  };
}
interface IdRange {
  readonly size: number;
}

async function findPodman(path: string): Promise<ContainerEngine> {
  const info = parseInfo<PodmanInfo>(
    "podman",
    await askEngine(path, ["info", "--format", "json"], "podman does not answer", INFO_MS),
  );
  const rootless = info.host?.security?.rootless ?? process.getuid?.() !== 0;
  return {
    ...{ name: "podman", path, rootless, version: info.version?.Version ?? "?" },
    flags: [
      ...runtimeFlags(info.host?.ociRuntime?.name ?? "", info.host?.cgroupVersion ?? ""),
      ...ulimitFlags(readFileSync("/proc/self/limits", "utf8")),
      ...mappingFlags(rootless, info),
      // Frames are bytes: none of them may mean "detach".
      ...["--detach-keys=", "--http-proxy=false", "--sig-proxy=false", "--log-driver=none", "--passwd=false"],
    ],
  };
}

interface DockerInfo {
  readonly ServerVersion?: string;
  readonly ServerErrors?: readonly string[] | null;
  readonly SecurityOptions?: readonly string[] | null;
}

async function findDocker(path: string): Promise<ContainerEngine> {
  const asking = askEngine(path, ["info", "--format", "{{json .}}"], "docker does not answer", INFO_MS);
  const text = await asking.catch((cause: Error) => {
    throw new AleError("sandbox", cause.message, { hint: DOCKER_HINT, cause });
  });
  const info = parseInfo<DockerInfo>("docker", text);
  const [problem] = info.ServerErrors ?? [];
  if (info.ServerVersion === undefined || info.ServerVersion === "")
    throw new AleError("sandbox", `docker does not answer: ${problem ?? "there is no server"}`, {
      hint: DOCKER_HINT,
    });
  const rootless = (info.SecurityOptions ?? []).some((option) => option.includes("rootless"));
  const flags = ["--sig-proxy=false", "--log-driver=none"];
  return { name: "docker", path, rootless, version: info.ServerVersion, flags };
}

function parseInfo<T>(name: string, text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw new AleError("sandbox", `${name} info gave no JSON: ${errorMessage(error)}`, { hint: `update ${name}` });
  }
}

/** crun refuses machines with both versions of control groups; runc does not. */
function runtimeFlags(runtime: string, cgroups: string): string[] {
  const hybrid = cgroups === "v1" && existsSync("/sys/fs/cgroup/unified/cgroup.controllers");
  if (!hybrid || runtime !== "crun") return [];
  if (Bun.which("runc") !== null) return ["--runtime=runc"];
  throw new AleError("sandbox", "podman's runtime crun cannot work where control groups of both versions are mounted", {
    hint: "apt-get install runc; or boot with systemd.unified_cgroup_hierarchy=1",
  });
}

/** More than a sandbox may have, and less than podman lowers the hard limit on processes to on its way to the container. */
const MOST = { files: 65_536, processes: 16_384 };

/**
 * podman asks for more open files and processes than the hard limits of whoever starts it allow, which only CAP_SYS_RESOURCE
 * can raise. So it is told limits that can be had. `limits` is the text of /proc/self/limits.
 */
export function ulimitFlags(limits: string): string[] {
  const least = (line: string, most: number) => {
    const hard = new RegExp(`^${line} +\\S+ +(\\d+)`, "m").exec(limits)?.[1];
    const value = Math.min(most, hard === undefined ? most : Number(hard));
    return `${value}:${value}`;
  };
  const [files, processes] = [least("Max open files", MOST.files), least("Max processes", MOST.processes)];
  return [`--ulimit=nofile=${files}`, `--ulimit=nproc=${processes}`];
}

/** The container's root is nobody on the host: neither root nor, as an ordinary user with ids of its own, that user. */
function mappingFlags(rootless: boolean, { host }: PodmanInfo): string[] {
  if (!rootless) return [`--uidmap=0:${FIRST_ID}:${ID_COUNT}`, `--gidmap=0:${FIRST_ID}:${ID_COUNT}`];
  const sizeOf = (ranges: readonly IdRange[] | null | undefined) =>
    (ranges ?? []).reduce((sum, { size }) => sum + size, 0);
  const [uids, gids] = [sizeOf(host?.idMappings?.uidmap), sizeOf(host?.idMappings?.gidmap)];
  if (uids < 2 || gids < 2) return []; // one id only: podman makes that user the container's root
  return [`--uidmap=0:1:${uids - 1}`, `--gidmap=0:1:${gids - 1}`];
}
