import { expect, test } from "bun:test";
import { join } from "node:path";

const BENCH = join(import.meta.dir, "../../bench/flat-memory.ts");

test("thousands of decode steps with episodes that come and go leave memory as it is", async () => {
  const child = Bun.spawn([process.execPath, BENCH, "--steps", "6000", "--every", "1000"], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const output = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  const [, evictions, added] = /(\d+) evictions; the second half added ([\d.]+) MB/.exec(output) as RegExpExecArray;
  expect(Number(evictions)).toBeGreaterThan(1000);
  expect(Number(added)).toBeLessThan(10);
}, 60_000);
