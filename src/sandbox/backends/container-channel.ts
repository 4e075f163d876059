/**
 * A container with Ale's init as its process 1, reached through the standard input and output of one `run`: an `exec` of
 * podman's takes a tenth of a second, a frame to the init a tenth of a millisecond.
 */

import { chmod, stat } from "node:fs/promises";
import type { EnvironmentSpec } from "../../core/types.ts";
import { limitSettings } from "../environment-limits.ts";
import { Connection } from "../launcher-client.ts";
import { launcherPath } from "../launcher-path.ts";
import { encodeSettings, Op } from "../protocol.ts";
import { askEngine, type ContainerEngine } from "./container-engine.ts";
import type { ContainerRoot } from "./container-root.ts";
import { SoloChannel } from "./solo-channel.ts";

const START_MS = 60_000;
const REMOVE_MS = 30_000;
/** Where the init's program is in a container. */
const INIT_PATH = "/.ale-init";
/** As `EXTRA_PROCESSES` in `launcher/launcher.h`: init and shell. */
const EXTRA_PROCESSES = 2;
/** As `KEPT` in `launcher/confine.c`. */
const CAPABILITIES =
  "CHOWN,DAC_OVERRIDE,FOWNER,FSETID,KILL,SETGID,SETUID,SETPCAP,SETFCAP,NET_BIND_SERVICE,SYS_CHROOT".split(",");

export interface ContainerOptions {
  /** One of `ownedName`'s. */
  readonly name: string;
  readonly number: number;
  readonly root: ContainerRoot;
  readonly environment: EnvironmentSpec;
  /** Whether its first shell is started at once. */
  readonly session: boolean;
}

/** A container of podman or docker. */
export class ContainerChannel extends SoloChannel {
  /** Of the container. */
  readonly name: string;

  private constructor(engine: ContainerEngine, name: string, connection: Connection, isolation: string) {
    // The init ends when its input does, and all processes of the container with it; `run --rm` then removes it.
    super(connection, isolation, async () => {
      await connection.stop();
      if (connection.killed) await removeContainer(engine, name);
    });
    this.name = name;
  }

  /**
   * Makes a container.
   * @throws AleError("sandbox") with what the engine says.
   */
  static async start(engine: ContainerEngine, options: ContainerOptions): Promise<ContainerChannel> {
    const { name, number, environment, session } = options;
    const command = [engine.path, "run", ...(await runFlags(engine, options)), options.root.image, "container"];
    const connection = new Connection(command, { name: engine.name, env: process.env, detached: true });
    const settings = encodeSettings([
      ["session", session ? 1 : 0],
      ...limitSettings(environment),
      // The container's own layer has no quota.
      ...(options.root.writable === undefined ? [["file", environment.diskBytes] as const] : []),
    ]);
    const what = `making a container of ${options.root.image}`;
    try {
      const reply = await connection.request(Op.hello, number, settings, what, START_MS);
      const [found = ""] = new TextDecoder().decode(reply.payload).split("\0");
      const isolation = `${engine.name}:${engine.rootless ? "user" : "root"}+${found.replace("isolation=", "")}`;
      return new ContainerChannel(engine, name, connection, isolation);
    } catch (error) {
      await connection.stop();
      await removeContainer(engine, name).catch(() => {}); // most often it was never made
      throw error;
    }
  }
}

/** The init's program. The container's root is somebody else on the host, who must be able to run it. */
async function initProgram(): Promise<string> {
  const path = await launcherPath();
  if (((await stat(path)).mode & 0o055) !== 0o055) await chmod(path, 0o755);
  return path;
}

async function runFlags(engine: ContainerEngine, options: ContainerOptions): Promise<string[]> {
  const { name, root, environment } = options;
  const { memoryBytes, diskBytes, pids, cpus } = environment;
  const memory = Math.floor(memoryBytes + diskBytes); // files lie in memory, as in the launcher's sandboxes
  return [
    ...["--rm", "--interactive", `--name=${name}`, "--hostname=sandbox", "--network=none", "--user=0:0"],
    ...["--cap-drop=ALL", ...CAPABILITIES.map((capability) => `--cap-add=${capability}`)],
    "--security-opt=no-new-privileges",
    ...[`--memory=${memory}`, `--memory-swap=${memory}`, `--pids-limit=${pids + EXTRA_PROCESSES}`, `--cpus=${cpus}`],
    `--shm-size=${Math.floor(diskBytes)}`,
    `--volume=${await initProgram()}:${INIT_PATH}:ro`,
    `--workdir=${environment.workdir}`,
    `--entrypoint=${INIT_PATH}`,
    ...engine.flags,
    ...root.flags,
  ];
}

/** Whatever state it is in. That there is none of that name is no error. */
export async function removeContainer(engine: ContainerEngine, name: string): Promise<void> {
  await askEngine(engine.path, ["rm", "--force", name], `removing container ${name}`, REMOVE_MS).catch((error) => {
    if (!/no such container|no container with name/i.test((error as Error).message)) throw error;
  });
}
