import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import { aleHome, defaultRunDir, defaultStorePath, prepareRunDir, prepareStorePath } from "./paths.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ale-paths-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function fail(work: () => unknown): AleError {
  try {
    work();
  } catch (error) {
    if (error instanceof AleError) return error;
    throw error;
  }
  throw new Error("no error was thrown");
}

test("the home follows ALE_HOME, XDG_DATA_HOME, HOME, and needs none of them", () => {
  expect(aleHome({ ALE_HOME: "/a", XDG_DATA_HOME: "/x", HOME: "/h" })).toBe("/a");
  expect(aleHome({ XDG_DATA_HOME: "/x", HOME: "/h" })).toBe("/x/ale");
  expect(aleHome({ HOME: "/h" })).toBe("/h/.local/share/ale");
  expect(aleHome({})).toBe(join(tmpdir(), `ale-${process.getuid?.()}`));
  expect(aleHome({ ALE_HOME: "", HOME: "/h" })).toBe("/h/.local/share/ale");
  expect(defaultStorePath({ ALE_HOME: "/a" })).toBe("/a/ale.db");
});

test("run directories carry name and time and never repeat", () => {
  const now = new Date(2026, 0, 2, 3, 4, 5);
  const first = defaultRunDir("shell", now, folder);
  expect(first).toBe(join(folder, "runs", "shell-20260102-030405"));
  mkdirSync(first, { recursive: true });
  expect(defaultRunDir("shell", now, folder)).toBe(`${first}-2`);
});

test("an empty or missing folder becomes a run directory", () => {
  const path = join(folder, "new", "deep");
  expect(prepareRunDir(path)).toBe(path);
  expect(statSync(path).isDirectory()).toBe(true);
  expect(prepareRunDir(path)).toBe(path);
});

test("a folder with content is refused, and a run's folder points to ale resume", () => {
  const run = join(folder, "run-9");
  mkdirSync(run);
  writeFileSync(join(run, "config.toml"), "");
  const error = fail(() => prepareRunDir(run));
  expect(error.message).toBe(`${run} is not empty (config.toml)`);
  expect(error.hint).toContain(`ale resume ${run}`);
  expect(error.hint).toContain(`--out ${join(folder, "run-10")}`);
  expect(error.exitCode).toBe(2);
  expect(readdirSync(run)).toEqual(["config.toml"]);

  const other = join(folder, "photos");
  mkdirSync(other);
  writeFileSync(join(other, "a.jpg"), "");
  expect(fail(() => prepareRunDir(other)).hint).toBe(`give another folder: --out ${other}-2`);
});

test("a file where a folder should be, and a folder where the database should be", () => {
  const path = join(folder, "file");
  writeFileSync(path, "");
  expect(fail(() => prepareRunDir(path)).message).toBe(`${path} is a file, not a folder`);
  expect(fail(() => prepareRunDir(join(path, "below"))).message).toContain("is a file, not a folder");
  expect(fail(() => prepareStorePath(folder)).message).toBe(`${folder} is a folder, not a database file`);
  const blocked = fail(() => prepareStorePath(join(path, "ale.db")));
  expect(blocked.code).toBe("store");
  expect(blocked.hint).toContain("--store");
});

test("a read-only place is named", () => {
  const error = fail(() => prepareRunDir("/proc/ale-run"));
  expect(error.message).toContain("the run directory /proc/ale-run cannot be written");
  expect(error.hint).toContain("--out DIR");
});
