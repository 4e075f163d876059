/** Numbers of an independent float64 reference, one case per line; `bun run golden -- DIR` checks whole folders of them. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { findCheck } from "../../test/algorithms/golden.ts";

const FOLDER = join(import.meta.dir, "testdata");

for (const file of readdirSync(FOLDER).sort()) {
  test(file, () => {
    const cases = readFileSync(join(FOLDER, file), "utf8").trim().split("\n");
    expect(cases.length).toBeGreaterThan(5);
    for (const line of cases) {
      const golden: { name: string } = JSON.parse(line);
      const check = findCheck(file.slice(0, 2), golden.name);
      if (check === undefined) throw new Error(`nothing checks ${golden.name}`);
      try {
        check(golden);
      } catch (cause) {
        throw new Error(golden.name, { cause });
      }
    }
  });
}

test("a wrong number is noticed", () => {
  const [line = ""] = readFileSync(join(FOLDER, "02-policy-losses.jsonl"), "utf8").split("\n");
  const golden = JSON.parse(line);
  const check = findCheck("02", golden.name);
  golden.expected.grad[0] = golden.expected.grad[0].map((slope: number) => slope * (1 + 1e-7));
  expect(() => check?.(golden)).toThrow(/grad\[0\]\[\d+\] is/);
});
