/** What is known of a task folder before it is given a split and a seed. */

import {
  type EnvironmentSpec,
  IMAGE_PROFILE,
  type NetworkSpec,
  type SandboxFile,
  type Split,
  type Task,
} from "../core/types.ts";
import { NO_NETWORK, networkOf } from "./network.ts";
import type { TaskFile } from "./schema.ts";

/** What a task folder becomes: something that gives tasks. */
export interface TaskFamily {
  readonly name: string;
  /** Path of the folder, for messages. */
  readonly folder: string;
  readonly description: string;
  /** `false` for a plain Harbor folder, which is the same task whatever the split and seed. */
  readonly parametric: boolean;
  readonly environment: EnvironmentSpec;
  /** What agent and tests may reach, where that is anything, and which table of `task.toml` says so. */
  readonly networks: readonly AskedNetwork[];
  render(split: Split, seed: number): Task;
}

export interface AskedNetwork {
  readonly table: "environment" | "agent" | "verifier";
  readonly network: NetworkSpec;
}

/** A task folder as read, before it is given a split and a seed. */
export interface TaskFolder {
  readonly suite: string;
  readonly family: string;
  readonly path: string;
  readonly file: TaskFile;
  readonly instruction: string;
  readonly files: readonly SandboxFile[];
  readonly tests: readonly SandboxFile[];
  readonly solution: readonly SandboxFile[];
}

/** Where instance files lie inside a task folder. */
export const WORKDIR_FOLDER = "environment/files";

const MEBIBYTE = 1024 * 1024;

/** The parts of a task that are the same for all its instances. */
export function sharedParts(folder: TaskFolder): Pick<Task, "suite" | "environment" | "verifierNetwork" | "timeouts"> {
  const { environment, agent, verifier } = folder.file;
  const { ofAgent, ofVerifier } = phaseNetworks(folder);
  return {
    suite: folder.suite,
    environment: {
      profile: environment.profile ?? IMAGE_PROFILE,
      image: environment.docker_image,
      workdir: environment.workdir,
      cpus: environment.cpus,
      memoryBytes: environment.memory_mb * MEBIBYTE,
      diskBytes: environment.storage_mb * MEBIBYTE,
      pids: environment.pids,
      ...(ofAgent.mode !== "none" && { network: ofAgent }),
      ...(environment.least_isolation && { leastIsolation: environment.least_isolation }),
    },
    ...(ofVerifier.mode !== "none" && { verifierNetwork: ofVerifier }),
    timeouts: { command: agent.command_timeout_sec, agent: agent.timeout_sec, verifier: verifier.timeout_sec },
  };
}

function phaseNetworks({ path, file: { environment, agent, verifier } }: TaskFolder) {
  const name = `${path}/task.toml`;
  const ofAll = networkOf(name, "environment", environment, NO_NETWORK);
  return {
    ofAll,
    ofAgent: networkOf(name, "agent", agent, ofAll),
    ofVerifier: networkOf(name, "verifier", verifier, ofAll),
  };
}

/** What a task asks for, table by table. */
export function networksOf(folder: TaskFolder): AskedNetwork[] {
  const { ofAll, ofAgent, ofVerifier } = phaseNetworks(folder);
  const asked: AskedNetwork[] = [
    { table: ofAgent === ofAll ? "environment" : "agent", network: ofAgent },
    { table: ofVerifier === ofAll ? "environment" : "verifier", network: ofVerifier },
  ];
  return asked.filter(({ network }) => network.mode !== "none");
}

/** Permission bits of a file of a task folder. */
export function defaultMode(path: string, scripts: boolean, executable = false): number {
  return executable || (scripts && path.endsWith(".sh")) ? 0o755 : 0o644;
}
