import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { neededLibraries } from "./elf.ts";
import { ortLibraryPath } from "./library.ts";

test("what ONNX Runtime's library asks for", () => {
  const needed = neededLibraries(ortLibraryPath());
  expect(needed).toContain("libstdc++.so.6");
  expect(needed).toContain("libc.so.6");
  expect(needed.every((name) => /^[\w+.-]+$/.test(name))).toBe(true);
});

test("a file that is not a library, or is cut short, is named", () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-elf-"));
  try {
    const text = join(folder, "notes.so");
    writeFileSync(text, "x".repeat(100));
    expect(() => neededLibraries(text)).toThrow(`${text} is not a 64-bit shared library`);
    const short = join(folder, "short.so");
    writeFileSync(short, readFileSync(ortLibraryPath()).subarray(0, 1000));
    expect(() => neededLibraries(short)).toThrow("it is cut short");
  } finally {
    rmSync(folder, { recursive: true });
  }
});
