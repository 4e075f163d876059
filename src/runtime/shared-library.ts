/** Loading a shared library for its own sake, with the dynamic linker's own words when it cannot be. */

import { CString, dlopen, type Pointer } from "bun:ffi";
import { addressOf, allocateString } from "./memory.ts";

const RTLD_NOW = 2;
const RTLD_GLOBAL = 0x100;

function openLinker() {
  return dlopen("libc.so.6", {
    dlopen: { args: ["ptr", "i32"], returns: "ptr" },
    dlerror: { args: [], returns: "ptr" },
  }).symbols;
}

let linker: ReturnType<typeof openLinker> | undefined;

/** Loads a library by name or path, for good. @returns undefined, or what dlerror(3) says. */
export function linkLibrary(name: string): string | undefined {
  linker ??= openLinker();
  const native = allocateString(name);
  const handle = linker.dlopen(addressOf(native) as Pointer, RTLD_NOW | RTLD_GLOBAL);
  if (handle !== null) return undefined;
  const message = linker.dlerror();
  return message === null ? `${name} cannot be loaded` : new CString(message as Pointer).toString();
}
