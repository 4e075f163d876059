/**
 * The native files that the executable carries: ONNX Runtime, its operators of our own, the libSQL addon, the
 * sandbox launcher, and the C++ runtime for machines without one. Each is unpacked when it is first needed, by whichever process needs it.
 *
 * In a checkout these files come from `node_modules` and the system, and nothing here is used.
 */

import { dlopen } from "bun:ffi";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";
import { createMemoryFile } from "./memory-file.ts";
import { cacheBases, cacheNative, type NativeFile } from "./native-cache.ts";
import { shippedRoot } from "./shipped.ts";

/** What the build stages in `embed/natives`, see `scripts/build/stage.ts`. */
export const NATIVE_NAMES = [
  "libgcc_s.so.1",
  "libstdc++.so.6",
  "libonnxruntime.so.1",
  "libsql.node",
  "libale-operators.so",
  "ale-launcher",
] as const;

export type NativeName = (typeof NATIVE_NAMES)[number];

/** `embed/natives/manifest.json`, written by the build. */
export type NativeManifest = Readonly<Record<NativeName, { readonly size: number; readonly sha256: string }>>;

/** Where a native file was put in this process. */
export interface NativePlace {
  readonly name: NativeName;
  readonly path: string;
  /** The cache folder in use; undefined when the file is held in memory. */
  readonly base: string | undefined;
  /** Why better places were passed over. */
  readonly refused: readonly string[];
}

const places = new Map<NativeName, NativePlace>();
let manifest: NativeManifest | undefined;

/** Every native file this process has asked for so far; for `ale doctor`. */
export function nativePlaces(): readonly NativePlace[] {
  return [...places.values()];
}

/**
 * Path of a native file that can be mapped or executed. It lies in the first cache folder that is fit for it, else in
 * memory.
 * @throws AleError("engine") naming every place tried when there is none.
 */
export function nativePath(name: NativeName): string {
  return placeNative(name, () => {}).path;
}

/**
 * As `nativePath`, with proof: `use` maps the file, and a place where that fails is passed over like one that cannot be
 * written. Runs `use` once per process and name.
 */
function placeNative(name: NativeName, use: (path: string) => void): NativePlace {
  const known = places.get(name);
  if (known !== undefined) return known;
  const file = nativeFile(name);
  const refused: string[] = [];
  const attempts = [
    ...cacheBases().map((base) => ({ base, put: () => cacheNative(base, file) })),
    { base: undefined, put: () => createMemoryFile(name, file.read()) },
  ];
  for (const { base, put } of attempts) {
    try {
      const path = put();
      use(path);
      const place: NativePlace = { name, path, base, refused };
      places.set(name, place);
      return place;
    } catch (error) {
      refused.push(`${base ?? "memory"}: ${errorMessage(error)}`);
    }
  }
  throw new AleError("engine", `${name} cannot be unpacked anywhere (${refused.join("; ")})`, {
    hint: "set ALE_CACHE_DIR to a folder that is writable and not mounted noexec",
  });
}

function nativeFile(name: NativeName): NativeFile {
  const folder = join(shippedRoot(), "natives");
  manifest ??= JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as NativeManifest;
  return { name, ...manifest[name], read: () => readFileSync(join(folder, name)) };
}

let cxxReady = false;

/**
 * ONNX Runtime and libSQL ask for the C++ runtime by name. Once a library of that name is loaded the linker takes it, so
 * the system's is tried first and ours is loaded where there is none.
 */
function loadCxxRuntime(): void {
  if (cxxReady) return;
  for (const [name, symbol] of [
    ["libgcc_s.so.1", "_Unwind_Resume"],
    ["libstdc++.so.6", "__cxa_demangle"],
  ] as const) {
    const load = (path: string): void => {
      dlopen(path, { [symbol]: { args: ["ptr"], returns: "ptr" } });
    };
    try {
      load(name);
    } catch {
      placeNative(name, load);
    }
  }
  cxxReady = true;
}

/** Loads ONNX Runtime with what it needs and returns the path under which it is loaded. */
export function loadOrtLibrary(): string {
  loadCxxRuntime();
  const load = (path: string): void => {
    dlopen(path, { OrtGetApiBase: { args: [], returns: "ptr" } });
  };
  return placeNative("libonnxruntime.so.1", load).path;
}

/** Loads the library of `own-operators.ts` and returns the path under which it is loaded. */
export function loadOperatorsLibrary(): string {
  const load = (path: string): void => {
    dlopen(path, { ale_operators_domain: { args: ["ptr"], returns: "ptr" } });
  };
  return placeNative("libale-operators.so", load).path;
}

let libsql: unknown;

/** The libSQL addon's functions. The build makes `node_modules/libsql/index.js` call this (`scripts/build/bundle.ts`). */
export function loadLibsqlAddon(): unknown {
  if (libsql === undefined) {
    loadCxxRuntime();
    const module: { exports: unknown } = { exports: {} };
    placeNative("libsql.node", (path) => process.dlopen(module, path));
    libsql = module.exports;
  }
  return libsql;
}
