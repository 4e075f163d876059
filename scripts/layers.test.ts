import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describeLayers, findViolations, LAYERS, mayImport, SIBLINGS } from "./layers.ts";
import { REPOSITORY } from "./repository.ts";

const root = mkdtempSync(join(tmpdir(), "ale-layers-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

function violationsOf(files: Readonly<Record<string, string>>): string[] {
  rmSync(root, { recursive: true, force: true });
  for (const [path, source] of Object.entries(files)) {
    mkdirSync(join(root, dirname(path)), { recursive: true });
    writeFileSync(join(root, path), source);
  }
  return findViolations(root).map(({ file, message }) => `${file}: ${message}`);
}

describe("layers", () => {
  test("this repository is in order", () => {
    expect(findViolations().map(({ file, message }) => `${file}: ${message}`)).toEqual([]);
  });

  test("docs/architecture.md says the same", () => {
    const page = readFileSync(join(REPOSITORY, "docs", "architecture.md"), "utf8");
    expect(page).toContain(describeLayers().rows);
    expect(page).toContain(describeLayers().arrows);
  });

  test("the arrows among siblings make no circle", () => {
    const reaches = (from: string, seen: readonly string[]): void => {
      expect(seen).not.toContain(from);
      for (const to of SIBLINGS[from] ?? []) reaches(to, [...seen, from]);
    };
    for (const folder of LAYERS.flat()) reaches(folder, []);
  });

  test("imports point down, or along a listed arrow", () => {
    expect(mayImport("cli", "core")).toBe(true);
    expect(mayImport("models", "onnx")).toBe(true);
    expect(mayImport("core", "cli")).toBe(false);
    expect(mayImport("onnx", "models")).toBe(false);
    expect(mayImport("tasks", "sandbox")).toBe(false);
  });

  test("every kind of import counts", () => {
    for (const statement of [
      'import { a } from "../cli/a.ts";',
      'import type { A } from "../cli/a.ts";',
      'import {\n  a,\n  b,\n} from "../cli/a.ts";',
      'export { a } from "../cli/a.ts";',
      'export * from "../cli/a.ts";',
      'import "../cli/a.ts";',
      'const a = await import("../cli/a.ts");',
      'type A = import("../cli/a.ts").A;',
      'new Worker(new URL("../cli/a.ts", import.meta.url).href);',
    ]) {
      expect(violationsOf({ "src/core/a.ts": statement })).toEqual([
        "src/core/a.ts: core may not import cli (../cli/a.ts)",
      ]);
    }
    expect(
      violationsOf({ "src/core/a.ts": '// import { a } from "../cli/a.ts";\n/* import "../cli/a.ts" */' }),
    ).toEqual([]);
  });

  test("unknown folders, other roots and entry files are refused", () => {
    expect(violationsOf({ "src/misc/a.ts": "" })).toHaveLength(1);
    expect(violationsOf({ "src/core/a.ts": 'import "../../scripts/build.ts";' })).toHaveLength(1);
    expect(violationsOf({ "src/cli/a.ts": 'import "../main.ts";' })).toHaveLength(1);
    expect(violationsOf({ "src/main.ts": 'import "./cli/program.ts";' })).toEqual([]);
  });

  test("rules for files", () => {
    expect(violationsOf({ "src/core/a.ts": "export default 1;\n" })).toHaveLength(1);
    expect(violationsOf({ "src/core/utils/a.ts": "" })).toHaveLength(1);
    expect(violationsOf({ "src/core/a.ts": "\n".repeat(451) })).toHaveLength(1);
    expect(violationsOf({ "src/core/a.ts": 'import { dlopen, ptr } from "bun:ffi";' })).toHaveLength(1);
    expect(violationsOf({ "src/runtime/memory.ts": 'import { ptr } from "bun:ffi";' })).toEqual([]);
  });
});
