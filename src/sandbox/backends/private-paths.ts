/**
 * Where there is no root file system of its own, a sandbox's `/work` is a folder somewhere else. What is sent into the sandbox
 * is rewritten to lead there, what comes out of it is rewritten back, so that whoever looks sees the usual paths. Paths that a
 * program puts together by itself are not found.
 */

import type { SandboxFile } from "../../core/types.ts";

/** Folders that tasks name by their absolute paths. */
const FOLDERS = ["work", "tests", "solution", "logs", "tmp", "root"];
/** Larger files, and what is not text, are placed as they are. */
const MAX_SCRIPT_BYTES = 1 << 20;

export class PrivatePaths {
  readonly #root: string;
  readonly #outside: RegExp;

  /** `root`: the sandbox's folder; `workdir` and the usual folders lie below it. */
  constructor(root: string, workdir: string) {
    this.#root = root;
    const names = new Set([...FOLDERS, workdir.split("/")[1] ?? ""]);
    const words = [...names].map((name) => name.replace(/[^A-Za-z0-9_]/g, "\\$&")).join("|");
    // At the beginning of a path, and nothing but the whole name.
    this.#outside = new RegExp(`(?<![A-Za-z0-9_.~/-])/(?=(?:${words})(?![A-Za-z0-9_.-]))`, "g");
  }

  inward(text: string): string {
    return text.replace(this.#outside, `${this.#root}/`);
  }

  /** Scripts; other files hold what a task says they hold. */
  inwardFile(file: SandboxFile): SandboxFile {
    const { content, path } = file;
    const script = path.endsWith(".sh") || (content[0] === 0x23 && content[1] === 0x21);
    if (!script || content.length > MAX_SCRIPT_BYTES) return file;
    return { ...file, content: new TextEncoder().encode(this.inward(new TextDecoder().decode(content))) };
  }

  outward(output: Uint8Array): Uint8Array {
    const bytes = Buffer.from(output.buffer, output.byteOffset, output.byteLength);
    const parts: Uint8Array[] = [];
    let from = 0;
    for (let at = bytes.indexOf(this.#root); at >= 0; at = bytes.indexOf(this.#root, from)) {
      parts.push(bytes.subarray(from, at));
      from = at + this.#root.length;
    }
    return parts.length === 0 ? output : Buffer.concat([...parts, bytes.subarray(from)]);
  }
}
