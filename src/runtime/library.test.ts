import { CString, dlopen, type Pointer } from "bun:ffi";
import { expect, test } from "bun:test";
import type { AleError } from "../core/errors.ts";
import { openLibrary, ortApi } from "./c-api.ts";
import { ORT_VERSION, ortLibraryPath } from "./library.ts";
import { addressOf, allocateString } from "./memory.ts";

test("the library in node_modules is found and is the pinned version", () => {
  expect(ortLibraryPath()).toEndWith("libonnxruntime.so.1");
  expect(ortApi().environment).toBeGreaterThan(0);
  expect(ORT_VERSION).toBe("1.27.0");
});

test("native code sees the telemetry opt-out", () => {
  ortApi();
  const libc = dlopen("libc.so.6", { getenv: { returns: "ptr", args: ["ptr"] } });
  const name = allocateString("ORT_DISABLE_TELEMETRY");
  const value = libc.symbols.getenv(addressOf(name) as Pointer);
  expect(value === null ? null : new CString(value as Pointer).toString()).toBe("1");
});

test("a library that is missing or is another one is named, with what to do", () => {
  expect(() => openLibrary("/nowhere/libonnxruntime.so.1")).toThrow("cannot load /nowhere/libonnxruntime.so.1");
  expect(() => openLibrary("libc.so.6")).toThrow("cannot load libc.so.6");
  try {
    openLibrary("/nowhere/libonnxruntime.so.1");
  } catch (error) {
    expect((error as AleError).code).toBe("engine");
    expect((error as AleError).hint).toContain("ale doctor");
  }
});
