/**
 * Collects what the executable carries besides code, under `.build/embed`:
 * `natives/` (libraries, launcher, `manifest.json`) and the data folders as they lie in the repository.
 */

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildKernels } from "../../src/runtime/kernels/build.ts";
import { NATIVE_NAMES, type NativeManifest, type NativeName } from "../../src/runtime/natives.ts";
import { EMBED_FOLDER } from "../../src/runtime/shipped.ts";
import { buildLauncher } from "../../src/sandbox/launcher/build.ts";
import { REPOSITORY } from "../repository.ts";

/** Folders of data that are read at run time through `src/runtime/shipped.ts`. */
const DATA_FOLDERS = ["tasks", "sandboxes", "models", "experiments"] as const;

const TOOLCHAIN_HINT =
  "install a C compiler and the C++ runtime: apt-get install gcc libc6-dev libstdc++6 (Debian, Ubuntu), " +
  "dnf install gcc glibc-devel glibc-static libstdc++ (Fedora)";

/** Where the packages keep their libraries. */
const PACKAGED: Partial<Record<NativeName, string>> = {
  "libonnxruntime.so.1": "node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime.so.1",
  "libsql.node": "node_modules/@libsql/linux-x64-gnu/index.node",
};

/** Fills `.build/embed` anew and returns its path. @throws Error naming what is missing and how to get it. */
export async function stageEmbeds(): Promise<string> {
  const folder = join(REPOSITORY, ".build", EMBED_FOLDER);
  rmSync(folder, { recursive: true, force: true });
  const natives = join(folder, "natives");
  mkdirSync(natives, { recursive: true });
  for (const name of NATIVE_NAMES) await stageNative(name, join(natives, name));
  writeFileSync(join(natives, "manifest.json"), JSON.stringify(describeNatives(natives)));
  for (const data of DATA_FOLDERS) {
    const source = join(REPOSITORY, data);
    if (!existsSync(source)) throw new Error(`${source} is missing; it belongs into the executable`);
    cpSync(source, join(folder, data), { recursive: true, dereference: true });
  }
  return folder;
}

async function stageNative(name: NativeName, target: string): Promise<void> {
  if (name === "ale-launcher") return buildLauncher(target);
  if (name === "libale-operators.so") return buildKernels(target);
  const packaged = PACKAGED[name];
  const source = packaged === undefined ? compilerFile(name) : join(REPOSITORY, packaged);
  if (!existsSync(source)) throw new Error(`${source} is missing; run bun install --frozen-lockfile`);
  cpSync(realpathSync(source), target);
}

/** Path of a runtime library of the C compiler; it prints the bare name for one it does not have. */
function compilerFile(name: string): string {
  const compiler = Bun.which("cc") ?? Bun.which("gcc") ?? Bun.which("clang");
  if (compiler === null) throw new Error(`no C compiler (cc, gcc or clang) was found; ${TOOLCHAIN_HINT}`);
  const { stdout } = Bun.spawnSync([compiler, `-print-file-name=${name}`], { timeout: 10_000 });
  const path = stdout.toString().trim();
  if (!path.startsWith("/") || !existsSync(path)) throw new Error(`${compiler} has no ${name}; ${TOOLCHAIN_HINT}`);
  return path;
}

function describeNatives(folder: string): NativeManifest {
  const entries = NATIVE_NAMES.map((name) => {
    const content = readFileSync(join(folder, name));
    return [name, { size: content.length, sha256: createHash("sha256").update(content).digest("hex") }] as const;
  });
  return Object.fromEntries(entries) as NativeManifest;
}
