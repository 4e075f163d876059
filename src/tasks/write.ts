/** Writes an instance out as a plain Harbor folder; loaded again it is the same task. */

import { chmodSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { stringify } from "smol-toml";
import { AleError, errorMessage } from "../core/errors.ts";
import type { SandboxFile, Task } from "../core/types.ts";
import { defaultMode, WORKDIR_FOLDER } from "./folder.ts";
import type { InstanceMetadata } from "./load.ts";
import { networkTable } from "./network.ts";

const MEBIBYTE = 1024 * 1024;

/**
 * Writes `task` to `folder`, which must not exist or be empty, and returns the paths of the files in it.
 *
 * @throws `AleError("task")` when the folder is in use or cannot be written
 */
export function writeTask(task: Task, folder: string): string[] {
  if (existsSync(folder) && readdirSync(folder).length > 0) {
    throw new AleError("task", `${folder} is not empty`, { hint: "name a folder that does not exist yet" });
  }
  const files = folderOf(task);
  try {
    for (const [path, { content, mode }] of files) {
      const target = join(folder, path);
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, content);
      chmodSync(target, mode);
    }
  } catch (error) {
    throw new AleError("task", `cannot write the task to ${folder}: ${errorMessage(error)}`, {
      hint: "choose a folder that can be written and has room",
      cause: error,
    });
  }
  return [...files.keys()];
}

/** The files of the Harbor folder of an instance, by path. */
export function folderOf(task: Task): Map<string, { readonly content: Uint8Array; readonly mode: number }> {
  const text = (content: string) => ({ content: new TextEncoder().encode(content), mode: 0o644 });
  const files = new Map([
    ["task.toml", text(taskToml(task))],
    ["instruction.md", text(`${task.instruction}\n`)],
  ]);
  for (const [place, list] of places(task)) {
    for (const { path, content, mode } of list)
      files.set(`${place}/${path}`, { content: content as Uint8Array<ArrayBuffer>, mode });
  }
  return files;
}

function places(task: Task): (readonly [place: string, files: readonly SandboxFile[]])[] {
  return [
    [WORKDIR_FOLDER, task.files],
    ["tests", task.tests],
    ["solution", task.solution],
  ];
}

function taskToml(task: Task): string {
  const { environment, timeouts, verifierNetwork } = task;
  return `${stringify({
    schema_version: "1.4",
    task: { name: `ale/${task.id}` },
    metadata: { ale: instanceMetadata(task) },
    environment: {
      ...(environment.image === undefined ? { profile: environment.profile } : { docker_image: environment.image }),
      workdir: environment.workdir,
      cpus: environment.cpus,
      memory_mb: environment.memoryBytes / MEBIBYTE,
      storage_mb: environment.diskBytes / MEBIBYTE,
      pids: environment.pids,
      ...(environment.leastIsolation && { least_isolation: environment.leastIsolation }),
    },
    agent: {
      ...{ timeout_sec: timeouts.agent, command_timeout_sec: timeouts.command },
      ...networkTable(environment.network),
    },
    verifier: { timeout_sec: timeouts.verifier, ...networkTable(verifierNetwork) },
  })}\n`;
}

/** Modes are written down where a copy without permission bits would lose them. */
function instanceMetadata(task: Task): InstanceMetadata {
  const modes: Record<string, string> = {};
  for (const [place, files] of places(task)) {
    for (const { path, mode } of files) {
      if (mode !== defaultMode(path, place !== WORKDIR_FOLDER))
        modes[`${place}/${path}`] = mode.toString(8).padStart(3, "0");
    }
  }
  return {
    id: task.id,
    suite: task.suite,
    family: task.family,
    split: task.split,
    seed: task.seed,
    modes,
    demonstrations: task.demonstrations.map(({ kind, weight, commands }) => ({
      kind,
      weight,
      commands: [...commands],
    })),
  };
}
