/** Writes to where tests, rewards and solutions belong: asked for in a command, or found in the file system afterwards. */

import { posix } from "node:path";
import type { SimpleCommand } from "./shell-words.ts";

/** Programs whose last argument, or each, is written. */
const LAST = new Set(["cp", "mv", "install", "ln", "rsync", "scp"]);
const EACH = new Set([
  "touch",
  "mkdir",
  "tee",
  "rm",
  "rmdir",
  "unlink",
  "truncate",
  "chmod",
  "chown",
  "mkfifo",
  "mknod",
]);
const INTERPRETERS = /^(?:python[\d.]*|perl|ruby|node|bun|php|awk|gawk)$/;

/** The protected path that the command writes to, or `undefined`. */
export function protectedWriteIn(command: SimpleCommand, paths: readonly string[]): string | undefined {
  const { program, args, writes } = command;
  const operands = args.filter((arg) => !arg.startsWith("-"));
  const targets = [...writes, ...targetsOf(program, args, operands)];
  const direct = targets.find((target) => paths.some((path) => isWithin(target, path)));
  if (direct !== undefined) return direct;
  if (!INTERPRETERS.test(program)) return undefined;
  const code = args.join(" ");
  if (!/['"](?:w|a|x|r\+|w\+|a\+)b?['"]|write|mkdir|copy|symlink|unlink|rename/i.test(code)) return undefined;
  return paths.find((path) =>
    new RegExp(`(?<![\\w./-])${path.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?![\\w-])`).test(code),
  );
}

function targetsOf(program: string, args: readonly string[], operands: readonly string[]): readonly string[] {
  if (LAST.has(program)) return operands.slice(-1);
  if (EACH.has(program)) return operands;
  if (program === "sed" && args.some((arg) => /^-[A-Za-z]*i|^--in-place/.test(arg))) return operands.slice(1);
  if (program === "dd") return args.filter((arg) => arg.startsWith("of=")).map((arg) => arg.slice(3));
  return [];
}

/** The path itself, what is below it, or a folder it lies in that is taken away as a whole. */
function isWithin(target: string, path: string): boolean {
  const clean = posix.normalize(target).replace(/(.)\/+$/, "$1");
  return clean === path || clean.startsWith(`${path}/`);
}
