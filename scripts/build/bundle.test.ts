import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { findWorkers } from "./bundle.ts";
import { DISARMED_NAMES, disarmEnvironmentNames } from "./environment-names.ts";

const root = mkdtempSync(join(tmpdir(), "ale-bundle-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

function workersOf(files: Readonly<Record<string, string>>): string[] {
  rmSync(root, { recursive: true, force: true });
  for (const [path, source] of Object.entries(files)) {
    mkdirSync(join(root, dirname(path)), { recursive: true });
    writeFileSync(join(root, path), source);
  }
  return findWorkers(root).map((path) => path.slice(root.length + 1));
}

const start = (url: string) => `new Worker(new URL("${url}", import.meta.url).href);`;

describe("workers", () => {
  test("every worker file is an entry", () => {
    const files = { "src/a/x.worker.ts": "", "src/b/c/y.worker.ts": "", "src/a/x.ts": start("./x.worker.ts") };
    expect(workersOf(files)).toEqual(["src/a/x.worker.ts", "src/b/c/y.worker.ts"]);
  });

  test("what the executable would not find is refused", () => {
    expect(() => workersOf({ "src/a/x.worker.ts": "", "src/b/x.worker.ts": "" })).toThrow("two workers");
    expect(() => workersOf({ "src/a/x.worker.ts": "", "src/b/y.ts": start("../a/x.worker.ts") })).toThrow("src/b/y.ts");
    expect(() => workersOf({ "src/b/y.ts": start("./x.worker.ts") })).toThrow("src/b/y.ts");
  });
});

describe("environment names", () => {
  test("every occurrence is replaced, the length stays", () => {
    const text = `${DISARMED_NAMES.join("\0")}BUN_OPTIONSBUN_OPTIONS\0BUN_TMPDIR`;
    const executable = Buffer.from(text);
    expect(disarmEnvironmentNames(executable).get("BUN_OPTIONS")).toBe(3);
    expect(executable).toHaveLength(text.length);
    for (const name of DISARMED_NAMES) expect(executable.includes(name)).toBe(false);
    expect(executable.includes("BUN_TMPDIR")).toBe(true);
  });

  test("a name that is not there stops the build", () => {
    expect(() => disarmEnvironmentNames(Buffer.from("BUN_OPTIONS"))).toThrow("BUN_BE_BUN");
  });
});
