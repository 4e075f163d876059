/** Tasks and attempts as text, for judges and for people. */

import type { SandboxFile, Task } from "../core/types.ts";
import type { Attempt } from "./records.ts";

const MAX_FILE_CHARS = 4000;
const MAX_FILES = 20;

/** A text, or what is said in its place where a file is none. */
function shown({ content }: SandboxFile): string {
  const text = new TextDecoder().decode(content);
  if (text.includes("\0")) return `(${content.length} bytes that are no text)`;
  return text.length <= MAX_FILE_CHARS
    ? text
    : `${text.slice(0, MAX_FILE_CHARS)}\n(${text.length - MAX_FILE_CHARS} characters more)`;
}

function folder(name: string, files: readonly SandboxFile[]): string {
  const more = files.length > MAX_FILES ? `\n(${files.length - MAX_FILES} files more)` : "";
  return (
    files
      .slice(0, MAX_FILES)
      .map((file) => `--- ${name}/${file.path}\n${shown(file)}`)
      .join("\n") + more
  );
}

export function taskMaterial({ instruction, files, tests, solution }: Task): string {
  return [
    `--- instruction.md\n${instruction}`,
    folder("environment/files", files),
    folder("tests", tests),
    folder("solution", solution),
  ]
    .filter((part) => part !== "")
    .join("\n");
}

export function attemptMaterial(instruction: string, turns: Attempt["turns"]): string {
  const steps = turns.map(
    ({ command, observation }) => `$ ${command === "" ? "(no command)" : command}\n${observation}`,
  );
  return `Task: ${instruction}\n\n${steps.join("\n")}`;
}
