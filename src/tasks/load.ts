/**
 * Task folders in Harbor form: `task.toml`, `instruction.md`, `environment/files/` (placed in the working directory),
 * `tests/test.sh`, `solution/solve.sh`. The same folder with a `[family]` table is a family.
 */

import { z } from "zod";
import { AleError } from "../core/errors.ts";
import { type Demonstration, type SandboxFile, SPLITS, type Split } from "../core/types.ts";
import { compileFamily } from "./family.ts";
import { defaultMode, networksOf, sharedParts, type TaskFamily, type TaskFolder, WORKDIR_FOLDER } from "./folder.ts";
import { parseTaskFile } from "./schema.ts";
import type { TaskSource } from "./source.ts";

/** What `ale tasks render` leaves in `[metadata.ale]`, so that a written instance loads as the task it was. */
const InstanceSchema = z.strictObject({
  id: z.string(),
  suite: z.string(),
  family: z.string(),
  split: z.enum(SPLITS as readonly [Split, ...Split[]]),
  seed: z.number().int().min(0),
  modes: z.record(z.string(), z.string().regex(/^[0-7]{3}$/)).default({}),
  demonstrations: z
    .array(z.strictObject({ kind: z.enum(["expert", "mistake"]), weight: z.number(), commands: z.array(z.string()) }))
    .default([]),
});
export type InstanceMetadata = z.input<typeof InstanceSchema>;

/**
 * Reads the task folder `folder` of a source.
 *
 * @throws `AleError("task")` naming the file and what to do
 */
export function loadTaskFolder(source: TaskSource, folder: string, suite: string, family: string): TaskFamily {
  const path = folder === "" ? source.name : `${source.name}/${folder}`;
  const inside = (name: string) => (folder === "" ? name : `${folder}/${name}`);
  const text = (name: string): string | undefined => {
    const file = source.read(inside(name));
    if (file === undefined) return undefined;
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(file.content);
    } catch {
      throw new AleError("task", `${path}/${name} is not text in UTF-8`, { hint: "save it as UTF-8" });
    }
  };
  const toml = text("task.toml");
  if (toml === undefined) {
    throw new AleError("task", `${path} has no task.toml`, {
      hint: "a task folder holds task.toml, instruction.md and tests/test.sh",
    });
  }
  const file = parseTaskFile(toml, `${path}/task.toml`);
  // A Dockerfile beside it is what the image was built from.
  if (file.environment.docker_image === undefined) refuseImages(source, inside, path);
  const instruction = text("instruction.md");
  if (instruction === undefined || instruction.trim() === "") {
    const state = instruction === undefined ? "missing" : "empty";
    throw new AleError("task", `${path}/instruction.md is ${state}`, { hint: "write there what the agent is to do" });
  }
  const taskFolder: TaskFolder = {
    suite,
    family,
    path,
    file,
    instruction,
    files: readFiles(source, inside(WORKDIR_FOLDER), false),
    tests: readFiles(source, inside("tests"), true),
    solution: readFiles(source, inside("solution"), true),
  };
  checkTests(taskFolder);
  return file.family === undefined ? plainTask(taskFolder) : compileFamily(taskFolder, file.family);
}

function plainTask(folder: TaskFolder): TaskFamily {
  const { metadata } = folder.file;
  const shared = sharedParts(folder);
  const instance = metadata.ale === undefined ? undefined : parseInstance(metadata.ale, folder.path);
  const withModes = (files: readonly SandboxFile[], place: string) =>
    files.map((file) => {
      const mode = instance?.modes[`${place}/${file.path}`];
      return mode === undefined ? file : { ...file, mode: Number.parseInt(mode, 8) };
    });
  const content = {
    ...shared,
    instruction: folder.instruction.trim(),
    files: withModes(folder.files, WORKDIR_FOLDER),
    tests: withModes(folder.tests, "tests"),
    solution: withModes(folder.solution, "solution"),
    demonstrations: instance?.demonstrations ?? ([] as Demonstration[]),
  };
  return {
    name: folder.family,
    folder: folder.path,
    description: folder.file.task.description,
    parametric: false,
    environment: shared.environment,
    networks: networksOf(folder),
    render: (split, seed) => {
      if (instance === undefined) {
        return { ...content, id: `${folder.suite}/${folder.family}`, family: folder.family, split, seed };
      }
      const { id, suite, family } = instance;
      return { ...content, id, suite, family, split: instance.split, seed: instance.seed };
    },
  };
}

function parseInstance(metadata: unknown, path: string): z.output<typeof InstanceSchema> {
  const result = InstanceSchema.safeParse(metadata);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new AleError("task", `${path}/task.toml: metadata.ale.${issue?.path.join(".")}: ${issue?.message}`, {
    hint: "remove [metadata.ale], or render the instance again with `ale tasks render`",
  });
}

function refuseImages(source: TaskSource, inside: (name: string) => string, path: string): void {
  for (const name of ["Dockerfile", "docker-compose.yaml", "docker-compose.yml"]) {
    if (source.read(inside(`environment/${name}`)) === undefined) continue;
    throw new AleError("task", `${path}/environment/${name}: images are not built here`, {
      hint: `import the built image and name it as docker_image, or name a sandbox profile in task.toml and put the task's files into ${WORKDIR_FOLDER}/`,
    });
  }
}

/**
 * Scripts of the verifier and the solution are executable whatever the folder says, as in Harbor; other files keep their
 * executable bit and nothing else, as in git.
 */
function readFiles(source: TaskSource, folder: string, scripts: boolean): SandboxFile[] {
  return source.files(folder).map((path) => {
    const file = source.read(`${folder}/${path}`);
    if (file === undefined) throw new AleError("task", `${source.name}/${folder}/${path} vanished while it was read`);
    return { path, content: file.content, mode: defaultMode(path, scripts, file.executable) };
  });
}

function checkTests(folder: TaskFolder): void {
  if (!folder.tests.some((file) => file.path === "test.sh")) {
    throw new AleError("task", `${folder.path}/tests/test.sh is missing`, {
      hint: "write a script that puts 1 or 0 into /logs/verifier/reward.txt",
    });
  }
  const decoder = new TextDecoder();
  if (!folder.tests.some((file) => decoder.decode(file.content).includes("reward"))) {
    throw new AleError("task", `${folder.path}/tests/test.sh never writes a reward`, {
      hint: "end it with: echo 1 > /logs/verifier/reward.txt (or 0, or reward.json)",
    });
  }
}
