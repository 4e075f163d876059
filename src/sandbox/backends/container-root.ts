/**
 * What a container's file system is. Without an image of the user's it is that of profile `host`: this machine's programs,
 * read-only, and everything that can be written on file systems in memory whose size is limited.
 */

import { lstatSync, readlinkSync, realpathSync, statSync } from "node:fs";
import { AleError } from "../../core/errors.ts";
import type { EnvironmentSpec, SandboxFile } from "../../core/types.ts";
import { masksFor } from "../masks.ts";
import { loadProfile, type SandboxProfile } from "../profiles.ts";
import { type TarEntry, writeTar } from "../tar.ts";
import { askEngine, type ContainerEngine } from "./container-engine.ts";

const LOOK_MS = 30_000;
const PULL_MS = 1_800_000;
const IMPORT_MS = 60_000;

/** A container's image, what is mounted over it, and what is placed in it. */
export interface ContainerRoot {
  readonly image: string;
  /** Flags of `run`. */
  readonly flags: readonly string[];
  /** Folders that can be written; with `undefined` it is the container's own layer that can. */
  readonly writable: readonly string[] | undefined;
  /** Paths that show what is this machine's. */
  readonly mounted: readonly string[];
  /** Files for /etc. */
  readonly etc: readonly SandboxFile[];
}

/** Top-level links or folders besides /usr that programs are found through. */
const SYSTEM_FOLDERS = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
const WRITABLE = [
  "/etc",
  "/home",
  "/logs",
  "/mnt",
  "/opt",
  "/root",
  "/run",
  "/solution",
  "/srv",
  "/tests",
  "/tmp",
  "/var",
];
const MODES: Readonly<Record<string, string>> = { "/tmp": "1777", "/root": "700" };

/** As `make_etc` in `launcher/rootfs.c`. */
const ETC: Readonly<Record<string, string>> = {
  passwd: "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
  group: "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
  "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
};

/**
 * The root of a container for `environment`. An image that is not there is pulled; the skeleton of profile `host` is imported.
 * @throws AleError("sandbox") when the image cannot be had, or the profile is not one for containers.
 */
export async function containerRoot(
  engine: ContainerEngine,
  environment: EnvironmentSpec,
  image: string | undefined,
  maskPaths: readonly string[],
): Promise<ContainerRoot> {
  if (image !== undefined) {
    await ensureImage(engine, image);
    return { image, flags: [], writable: undefined, mounted: [], etc: [] };
  }
  const profile = loadProfile(environment.profile);
  if (profile.kind !== "host")
    throw new AleError("sandbox", `${engine.name} cannot make sandboxes of profile "${profile.name}"`, {
      hint: `import its folder, tar -C DIR -c . | ${engine.name} import - NAME, and set sandbox.image to NAME`,
    });
  const writable = [...WRITABLE, environment.workdir].filter((path) => !isBelow(path, WRITABLE));
  return {
    image: await importSkeleton(engine),
    flags: ["--read-only", ...writableFlags(engine, writable, environment), ...hostFlags(engine, profile, maskPaths)],
    writable,
    mounted: profile.binds,
    etc: Object.entries(ETC).map(([path, text]) => ({ path, mode: 0o644, content: new TextEncoder().encode(text) })),
  };
}

/** Whether one of `folders` holds `path`, and is not `path` itself. */
function isBelow(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) => path.startsWith(`${folder}/`));
}

async function ensureImage(engine: ContainerEngine, image: string): Promise<void> {
  if (await hasImage(engine, image)) return;
  try {
    await askEngine(engine.path, ["pull", "--quiet", image], `pulling ${image}`, PULL_MS);
  } catch (error) {
    throw new AleError("sandbox", (error as Error).message, {
      hint: `without a network: ${engine.name} load -i FILE, or tar -C DIR -c . | ${engine.name} import - ${image}`,
      cause: error,
    });
  }
}

function hasImage(engine: ContainerEngine, image: string): Promise<boolean> {
  const look = askEngine(
    engine.path,
    ["image", "inspect", "--format", "{{.Id}}", image],
    "looking for an image",
    LOOK_MS,
  );
  return look.then(
    () => true,
    () => false,
  );
}

/** An image of nothing but the links at the top; told from older ones by its content. */
async function importSkeleton(engine: ContainerEngine): Promise<string> {
  const entries: TarEntry[] = [];
  for (const name of SYSTEM_FOLDERS) {
    const status = lstatSync(`/${name}`, { throwIfNoEntry: false });
    if (status?.isSymbolicLink())
      entries.push({ kind: "link", path: name, mode: 0o777, content: Buffer.from(readlinkSync(`/${name}`)) });
  }
  for (const name of ["usr", "proc", "sys", "dev"])
    entries.push({ kind: "folder", path: name, mode: 0o755, content: new Uint8Array(0) });
  const tar = writeTar(entries);
  const image = `localhost/ale/host:${new Bun.CryptoHasher("sha256").update(tar).digest("hex").slice(0, 16)}`;
  if (!(await hasImage(engine, image)))
    await askEngine(engine.path, ["import", "-", image], "importing the skeleton of profile host", IMPORT_MS, tar);
  return image;
}

/** Each folder has the whole limit; together they are bounded by memory, for their files count as that. */
function writableFlags(engine: ContainerEngine, folders: readonly string[], environment: EnvironmentSpec): string[] {
  return folders.map((path) => {
    const mode = MODES[path] ?? "755";
    return tmpfsFlag(engine, path, `rw,exec,nosuid,nodev,mode=${mode},size=${Math.floor(environment.diskBytes)}`);
  });
}

/** An empty one: podman would copy what it covers. */
function tmpfsFlag({ name }: ContainerEngine, path: string, options: string): string {
  return `--tmpfs=${path}:${options}${name === "podman" ? ",notmpcopyup" : ""}`;
}

/** This machine's programs, and what hides Ale's own places among them. */
function hostFlags(engine: ContainerEngine, profile: SandboxProfile, maskPaths: readonly string[]): string[] {
  const isFolder = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  const apart = SYSTEM_FOLDERS.filter((name) => lstatSync(`/${name}`, { throwIfNoEntry: false })?.isDirectory());
  const shown = ["/usr", ...apart.map((name) => `/${name}`), ...profile.binds];
  const binds = shown
    .filter((path) => statSync(path, { throwIfNoEntry: false }) !== undefined)
    .map((path) => `--volume=${realpathSync(path)}:${path}:ro`);
  const masks = masksFor(profile, maskPaths).filter((path) => isItself(path));
  const hidden = masks.map((path) =>
    isFolder(path) ? tmpfsFlag(engine, path, "ro,size=4096,mode=000") : `--volume=/dev/null:${path}:ro`,
  );
  return [...binds, ...hidden];
}

/** Whether the path exists and leads through no link; those that do are masked by the other name they have. */
function isItself(path: string): boolean {
  try {
    return realpathSync(path) === path;
  } catch {
    return false;
  }
}
