import { expect, test } from "bun:test";
import { join } from "node:path";

const BENCH = join(import.meta.dir, "../../bench/train-memory.ts");

test("layer by layer takes at most 0.45 of the memory and gives the same gradients", async () => {
  const shape = ["--hidden", "128", "--layers", "12", "--rows", "8", "--length", "256"];
  const child = Bun.spawn([process.execPath, BENCH, ...shape], { stdout: "pipe", stderr: "inherit" });
  const output = await new Response(child.stdout).text();
  const [, peak, difference] = /peak ([\d.]+), .* differ by (\S+) of/.exec(output) as RegExpExecArray;
  expect(Number(peak)).toBeLessThanOrEqual(0.45);
  expect(Number(difference)).toBeLessThan(1e-6);
}, 60_000);
