import { expect, test } from "bun:test";
import { join } from "node:path";

const BENCH = join(import.meta.dir, "../../bench/flat-memory.ts");

test("thousands of decode steps with episodes that come and go leave memory as it is", async () => {
  const child = Bun.spawn([process.execPath, BENCH, "--steps", "4000", "--every", "500"], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const output = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  const [, evictions, added] = /(\d+) evictions; the second half added ([\d.]+) MB/.exec(output) as RegExpExecArray;
  expect(Number(evictions)).toBeGreaterThan(500);
  expect(Number(added)).toBeLessThan(10);
}, 240_000);
