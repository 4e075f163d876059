/** The files of a building agent as a task. */

import { stringify } from "smol-toml";
import { AleError } from "../core/errors.ts";
import type { EnvironmentSpec, SandboxFile, Task } from "../core/types.ts";
import { memorySource, type TaskSource } from "../tasks/source.ts";
import { suiteOf } from "../tasks/suite.ts";

export interface TaskFrame {
  readonly suite: string;
  readonly name: string;
  /** What the task's sandboxes may take. */
  readonly environment: EnvironmentSpec;
  readonly timeouts: Task["timeouts"];
}

const MEBIBYTE = 1 << 20;
/** What is taken from the agent's folder; limits, profile and all else of task.toml are not for it to say. */
const TAKEN = /^(instruction\.md|environment\/files\/.+|tests\/.+|solution\/.+)$/;

/**
 * Loads what an agent built as the loader of task folders would.
 * @throws AleError("task") naming the file that is missing or wrong
 */
export function taskOf(files: readonly SandboxFile[], frame: TaskFrame): Task {
  const taken = files.filter(({ path }) => TAKEN.test(path));
  if (taken.length === 0) throw new AleError("task", "the agent left no task");
  const source = filesSource(frame.suite, [
    { path: `${frame.name}/task.toml`, content: new TextEncoder().encode(taskToml(frame)), mode: 0o644 },
    ...taken.map((file) => ({ ...file, path: `${frame.name}/${file.path}` })),
  ]);
  const task = suiteOf(source).render(frame.name, "train", 0);
  if (!task.solution.some(({ path }) => path === "solve.sh")) {
    throw new AleError("task", `${frame.suite}/${frame.name}/solution/solve.sh is missing`);
  }
  return task;
}

/** Files as a tree that keeps their executable bits. */
function filesSource(name: string, files: readonly SandboxFile[]): TaskSource {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const plain = memorySource(new Map(files.map(({ path, content }) => [path, content])), "");
  return {
    ...plain,
    name,
    read: (path) => {
      const file = byPath.get(path);
      return file && { content: file.content, executable: (file.mode & 0o111) !== 0 };
    },
  };
}

function taskToml({ environment, timeouts }: TaskFrame): string {
  const { profile, workdir, cpus, memoryBytes, diskBytes, pids } = environment;
  return stringify({
    schema_version: "1.4",
    environment: {
      ...{ profile, workdir, cpus, pids },
      memory_mb: Math.ceil(memoryBytes / MEBIBYTE),
      storage_mb: Math.ceil(diskBytes / MEBIBYTE),
    },
    agent: { timeout_sec: timeouts.agent, command_timeout_sec: timeouts.command },
    verifier: { timeout_sec: timeouts.verifier },
  });
}
