import { expect, test } from "bun:test";
import { cpSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseEnvironmentId } from "./environment-id.ts";

const SHELL = resolve(import.meta.dir, "../../../tasks/shell");

test("suite, family, split and seed", () => {
  expect(parseEnvironmentId(`${SHELL}/cfg`)(5)).toMatchObject({ family: "cfg", split: "train", seed: 5 });
  expect(parseEnvironmentId(`${SHELL}/cfg/heldout`)(5)).toMatchObject({ split: "heldout", seed: 5 });
  expect(parseEnvironmentId(`${SHELL}/cfg/dev/7`)(5)).toMatchObject({ split: "dev", seed: 7 });
  const families = new Set([0, 1, 2, 3].map((seed) => parseEnvironmentId(SHELL)(seed).family));
  expect(families.size).toBe(4);
});

test("what lies above a suite does not matter", () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-environment-"));
  try {
    symlinkSync("/nowhere", join(folder, "link"));
    cpSync(join(SHELL, "cfg"), join(folder, "suites/one/cfg"), { recursive: true });
    expect(parseEnvironmentId(`${folder}/suites/one/cfg`)(5)).toMatchObject({ family: "cfg" });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.each([
  ["no/such/thing", "there is no environment"],
  ["tasks/shell/nonesuch", "nonesuch"],
  ["tasks/shell/cfg/test", "after the family come train, dev, heldout"],
  ["tasks/shell/cfg/train/x", "and a number"],
])("%s is none", (id, message) => {
  expect(() => parseEnvironmentId(id)).toThrow(message);
});
