/**
 * The shape of `src/`: which folder may import which (docs/architecture.md, "Layers"), and a few rules a linter has no
 * words for. `bun scripts/layers.ts` prints what breaks them.
 */

import { readFileSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";
import { REPOSITORY } from "./repository.ts";

/** Folders of `src/`, lowest first. A file may import its own folder and lower rows. */
export const LAYERS: readonly (readonly string[])[] = [
  ["core"],
  ["config"],
  [
    "tasks",
    "images",
    "sandbox",
    "agent",
    "tokens",
    "onnx",
    "autodiff",
    "runtime",
    "models",
    "policy",
    "algorithms",
    "store",
  ],
  ["rollout", "trainer", "device", "export", "reward", "data"],
  ["experiment"],
  ["api", "web", "cli", "tui"],
];

/** What may be imported besides, within a row. */
export const SIBLINGS: Readonly<Record<string, readonly string[]>> = {
  autodiff: ["onnx"],
  runtime: ["onnx"],
  models: ["onnx", "autodiff", "runtime"],
  policy: ["models", "runtime", "onnx", "tokens"],
  agent: ["tokens"],
  images: ["sandbox"],
  device: ["trainer"],
  rollout: ["device"],
  data: ["rollout", "export"],
  experiment: ["api"],
  cli: ["tui", "api", "web"],
  api: ["web"],
};

/** Beside the folders: the entry files, which may import everything. */
const ENTRY_FILES = ["main.ts", "start.ts"];
const MAX_LINES = 450;
const ADDRESS_FILE = join("src", "runtime", "memory.ts");

export interface Violation {
  /** Path from the root of the repository. */
  readonly file: string;
  readonly message: string;
}

/** Everything below `root` that breaks a rule, by file. */
export function findViolations(root: string = REPOSITORY): Violation[] {
  const paths = [...new Bun.Glob("{src,scripts,test,bench}/**/*.{ts,tsx}").scanSync({ cwd: root })].sort();
  return paths.flatMap((path) => {
    const source = readFileSync(join(root, path), "utf8");
    const messages = [...checkFile(path, source), ...(path.startsWith(`src${sep}`) ? checkImports(path, source) : [])];
    return messages.map((message) => ({ file: path, message }));
  });
}

function checkFile(path: string, source: string): string[] {
  const messages: string[] = [];
  const code = withoutComments(source);
  const lines = source.split("\n").length - 1;
  if (lines > MAX_LINES && !path.endsWith(".test.ts")) messages.push(`has ${lines} lines, more than ${MAX_LINES}`);
  if (/^export default\b/m.test(code)) messages.push("has a default export");
  if (dirname(path).split(sep).includes("utils")) messages.push("lies in a folder called utils; name what it is for");
  if (path.startsWith(`src${sep}`) && path !== ADDRESS_FILE && importsAddresses(code))
    messages.push(`uses bun:ffi's ptr; only ${ADDRESS_FILE} may`);
  return messages;
}

/** Memory from elsewhere may move (see `src/runtime/memory.ts`), so taking addresses has one home. */
function importsAddresses(code: string): boolean {
  return [...code.matchAll(/import\s*\{([^}]*)\}\s*from\s*"bun:ffi"/g)].some(([, names]) =>
    /\bptr\b/.test(names ?? ""),
  );
}

function checkImports(path: string, source: string): string[] {
  const own = folderOf(path);
  if (own === undefined) return [];
  const messages: string[] = [];
  for (const target of relativeImports(source)) {
    const imported = relative(REPOSITORY, join(REPOSITORY, dirname(path), target));
    if (!imported.startsWith(`src${sep}`)) {
      const allowed = imported === "package.json" || (path.endsWith(".test.ts") && imported.startsWith(`test${sep}`));
      if (!allowed) messages.push(`imports ${imported}, outside of src`);
      continue;
    }
    const folder = folderOf(imported);
    if (folder === undefined) messages.push(`imports the entry file ${imported}`);
    else if (!mayImport(own, folder)) messages.push(`${own} may not import ${folder} (${target})`);
  }
  const row = LAYERS.findIndex((names) => names.includes(own));
  if (row < 0) messages.push(`src/${own} is in no layer; add it to scripts/layers.ts and docs/architecture.md`);
  return messages;
}

/** Whether a file of `src/<from>` may import one of `src/<to>`. */
export function mayImport(from: string, to: string): boolean {
  if (from === to || SIBLINGS[from]?.includes(to)) return true;
  const row = (name: string) => LAYERS.findIndex((names) => names.includes(name));
  return row(to) >= 0 && row(to) < row(from);
}

/** The folder of `src/` a file lies in; undefined for the entry files. */
function folderOf(path: string): string | undefined {
  const [, folder] = path.split(sep);
  if (folder === undefined || (ENTRY_FILES.includes(basename(path)) && path.split(sep).length === 2)) return undefined;
  return folder;
}

/** Static, type-only, re-exporting, dynamic and worker imports of relative files. */
function relativeImports(source: string): string[] {
  const code = withoutComments(source);
  const patterns = [
    /\b(?:import|export)\b[^"';]*?\bfrom\s*"(\.[^"]*)"/g,
    /\bimport\s*"(\.[^"]*)"/g,
    /\bimport\(\s*"(\.[^"]*)"\s*[,)]/g,
    /\brequire\(\s*"(\.[^"]*)"\s*\)/g,
    /\bnew URL\(\s*"(\.[^"]*\.ts)"/g,
  ];
  return patterns.flatMap((pattern) => [...code.matchAll(pattern)].map(([, target]) => target as string));
}

function withoutComments(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
}

/** The rows and the arrows as docs/architecture.md writes them. */
export function describeLayers(): { readonly rows: string; readonly arrows: string } {
  const rows = LAYERS.map((names) => (names.length === 1 ? names[0] : `{${names.join(", ")}}`)).join(" ← ");
  const list = (names: readonly string[]) => (names.length === 1 ? names[0] : `{${names.join(", ")}}`);
  const arrows = Object.entries(SIBLINGS).map(([from, to]) => `${from} → ${list(to)}`);
  return { rows: `\`${rows}\``, arrows: `\`${arrows.join(" · ")}\`` };
}

if (import.meta.main) {
  const violations = findViolations();
  for (const { file, message } of violations) console.error(`${file}: ${message}`);
  console.log(violations.length === 0 ? "layers: in order" : `layers: ${violations.length} violations`);
  process.exit(violations.length === 0 ? 0 : 1);
}
