/**
 * Task families: a Harbor folder whose texts, file names and contents are templates over parameters. An instance is a
 * function of (family, split, seed) alone. Templates are compiled once, when the folder is loaded.
 */

import { AleError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import type { Demonstration, SandboxFile, Split, Task } from "../core/types.ts";
import { networksOf, sharedParts, type TaskFamily, type TaskFolder } from "./folder.ts";
import { compileCondition, compileList, compileParameter, type Drawer, elementScope } from "./parameters.ts";
import type { FamilyFile, FamilyTable } from "./schema.ts";
import { isTemplate, Scope, Template } from "./template.ts";
import { ContentPool } from "./words.ts";

type FileRenderer = (scope: Scope) => readonly SandboxFile[];

interface Renderers {
  readonly parameters: readonly (readonly [name: string, draw: Drawer])[];
  readonly instruction: Template;
  readonly files: (scope: Scope) => { readonly workdir: SandboxFile[]; readonly expected: SandboxFile[] };
  readonly tests: FileRenderer;
  readonly solution: FileRenderer;
  readonly demonstrations: (scope: Scope) => Demonstration[];
}

/** Compiles a folder with a `[family]` table. Throws `AleError("task")` naming file and field. */
export function compileFamily(folder: TaskFolder, family: FamilyTable): TaskFamily {
  const toml = `${folder.path}/task.toml`;
  const shared = sharedParts(folder);
  const renderers: Renderers = {
    parameters: Object.entries(family.parameters).map(
      ([name, table]) => [name, compileParameter(table, `${toml}: family.parameters.${name}`)] as const,
    ),
    instruction: new Template(folder.instruction, `${folder.path}/instruction.md`),
    files: compileWorkdir(folder, family, toml),
    tests: compileFolder(folder.tests, `${folder.path}/tests`),
    solution: compileFolder(folder.solution, `${folder.path}/solution`),
    demonstrations: compileDemonstrations(family, toml),
  };
  return {
    name: folder.family,
    folder: folder.path,
    description: folder.file.task.description,
    parametric: true,
    environment: shared.environment,
    networks: networksOf(folder),
    render: (split, seed) => {
      const id = `${folder.suite}/${folder.family}/${split}/${seed}`;
      try {
        return { ...shared, id, family: folder.family, split, seed, ...renderInstance(renderers, folder, split, seed) };
      } catch (error) {
        if (!(error instanceof AleError)) throw error;
        throw new AleError("task", `${error.message} (instance ${id})`, {
          ...(error.hint === undefined ? {} : { hint: error.hint }),
          cause: error,
        });
      }
    },
  };
}

type InstanceParts = Pick<Task, "instruction" | "files" | "tests" | "solution" | "demonstrations">;

function renderInstance(renderers: Renderers, folder: TaskFolder, split: Split, seed: number): InstanceParts {
  const rng = new Rng(`task/${folder.family}/${split}/${seed}`);
  const scope = new Scope();
  const pool = new ContentPool(split, rng);
  for (const [name, draw] of renderers.parameters) scope.set(name, draw({ scope, pool, rng }));
  const instruction = renderers.instruction.render(scope).trim();
  if (instruction === "") throw new AleError("task", `${folder.path}/instruction.md renders to nothing`);
  const { workdir, expected } = renderers.files(scope);
  const tests = [...renderers.tests(scope), ...expected.map((file) => ({ ...file, path: `expected/${file.path}` }))];
  return {
    instruction,
    files: inOrder(workdir, `${folder.path}: the working directory`),
    tests: inOrder(tests, `${folder.path}: tests/`),
    solution: inOrder(renderers.solution(scope), `${folder.path}: solution/`),
    demonstrations: renderers.demonstrations(scope),
  };
}

function compileWorkdir(folder: TaskFolder, family: FamilyTable, toml: string): Renderers["files"] {
  const inFolder = compileFolder(folder.files, `${folder.path}/environment/files`);
  const declared = family.files.map((file, i) => {
    const where = `${toml}: family.files[${i}]`;
    const expected = compileCondition(file.expected, `${where}.expected`);
    return { expected, render: compileEntry(file, where) };
  });
  const added = family.expected.map((file, i) => compileEntry(file, `${toml}: family.expected[${i}]`));
  return (scope) => {
    const workdir = [...inFolder(scope)];
    const expected: SandboxFile[] = [...workdir];
    for (const entry of declared) {
      for (const { file, scope: own } of entry.render(scope)) {
        workdir.push(file);
        if (entry.expected(own)) expected.push(file);
      }
    }
    for (const render of added) expected.push(...render(scope).map(({ file }) => file));
    return { workdir, expected };
  };
}

/** One entry of `[[family.files]]` or `[[family.expected]]`; with `each`, a file per element. */
function compileEntry(entry: FamilyFile, where: string) {
  const path = new Template(entry.path, `${where}.path`);
  const content = new Template(entry.content, `${where}.content`);
  const when = entry.when === undefined ? undefined : compileCondition(entry.when, `${where}.when`);
  const each = entry.each === undefined ? undefined : compileList(entry.each, `${where}.each`);
  return (scope: Scope): { readonly file: SandboxFile; readonly scope: Scope }[] => {
    const scopes =
      each === undefined ? [scope] : each({ scope }).map((item, index) => elementScope(scope, item, index));
    return scopes
      .filter((own) => when === undefined || when(own))
      .map((own) => ({
        scope: own,
        file: { path: checkPath(path.render(own), where), content: encode(content.render(own)), mode: entry.mode },
      }));
  };
}

/** The files of a folder; names and texts are templates, files that are not UTF-8 are copied. */
function compileFolder(files: readonly SandboxFile[], where: string): FileRenderer {
  const renderers = files.map((file): ((scope: Scope) => SandboxFile) => {
    const name = `${where}/${file.path}`;
    const source = decodeText(file.content);
    if (!isTemplate(file.path) && (source === undefined || !isTemplate(source))) return () => file;
    const path = new Template(file.path, name);
    const content = source === undefined ? undefined : new Template(source, name);
    return (scope) => ({
      path: checkPath(path.render(scope), name),
      content: content === undefined ? file.content : encode(content.render(scope)),
      mode: file.mode,
    });
  });
  return (scope) => renderers.map((render) => render(scope));
}

function compileDemonstrations(family: FamilyTable, toml: string): Renderers["demonstrations"] {
  const entries = family.demonstrations.map((entry, i) => {
    const where = `${toml}: family.demonstrations[${i}]`;
    return {
      kind: entry.kind,
      weight: entry.weight,
      when: entry.when === undefined ? undefined : compileCondition(entry.when, `${where}.when`),
      commands: new Template(entry.commands, `${where}.commands`),
    };
  });
  return (scope) =>
    entries
      .filter((entry) => entry.when === undefined || entry.when(scope))
      .map(({ kind, weight, commands }) => ({
        kind,
        weight,
        commands: commands
          .render(scope)
          .split("\n")
          .filter((line) => line !== ""),
      }));
}

/** A path of a task must stay inside the folder it is uploaded to. */
function checkPath(path: string, where: string): string {
  const parts = path.split("/");
  if (path.includes("\0") || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new AleError("task", `${where}: ${JSON.stringify(path)} is not a path inside the folder`, {
      hint: "use relative paths without empty parts, . and ..",
    });
  }
  return path;
}

/** Sorted by path, as a folder is read. */
function inOrder(files: readonly SandboxFile[], where: string): SandboxFile[] {
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : 1));
  const double = sorted.find(({ path }, i) => path === sorted[i + 1]?.path);
  if (double === undefined) return sorted;
  throw new AleError("task", `${where} has two files ${double.path}`, { hint: "give them different paths" });
}

const encoder = new TextEncoder();

function encode(text: string): Uint8Array {
  return encoder.encode(text);
}

function decodeText(content: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
  } catch {
    return undefined;
  }
}
