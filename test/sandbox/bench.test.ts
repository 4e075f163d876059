/** `ale bench sandbox`: a few rounds of it, in the form that programs read, beside the peers that are installed. */

import { expect, test } from "bun:test";
import { resolve } from "node:path";
import type { Percentiles, Row } from "../../src/cli/benches/bench.ts";

const MAIN = resolve(import.meta.dir, "../../src/main.ts");

async function bench(...flags: string[]): Promise<{ code: number; output: string; notes: string }> {
  // By this name it is there for an ordinary user, too, where Bun itself lies in a folder of root's.
  const child = Bun.spawn(["/proc/self/exe", MAIN, "bench", "sandbox", ...flags], {
    env: { ...process.env, NO_COLOR: "1" },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, notes] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, output, notes };
}

const parse = (output: string): Row[] => JSON.parse(output);

function expectFigures(row: Row): void {
  for (const key of ["name", "backend"]) expect(row[key]).toBeString();
  for (const key of ["concurrency", "perSecond"]) expect(row[key]).toBeNumber();
  for (const key of ["firstMs", "totalMs"]) {
    const { p50, p99 } = row[key] as Percentiles;
    expect(p50).toBeGreaterThan(0);
    expect(p99).toBeGreaterThanOrEqual(p50);
  }
}

test("peers that are installed have rows, with a ratio; of the others the reason is said", async () => {
  const { code, output, notes } = await bench("--only", "cold", "--rounds", "2", "--json");
  expect(code).toBe(0);
  const rows = parse(output);
  for (const row of rows) expectFigures(row);
  expect(rows.filter(({ name }) => name === "cold").map(({ concurrency }) => concurrency)).toEqual([1, 16]);
  for (const peer of ["bwrap", "runc", "podman"]) {
    const row = rows.find(({ name }) => name === peer);
    if (row === undefined) expect(notes).toContain(`without ${peer}: `);
    else expect([row.backend, typeof row.ratio]).toEqual([peer, "number"]);
    if (Bun.which(peer) === null) expect(notes).toContain(`without ${peer}: it is not installed`);
  }
  if (Bun.which("bwrap") !== null) expect(rows.map(({ name }) => name)).toContain("bwrap");
}, 120_000);

test.each(["warm", "session", "exec", "fork-512mb", "rock-start", "rock-warm"])(
  "%s",
  async (name) => {
    const { code, output } = await bench("--only", name, "--rounds", "2", "--json");
    expect(code).toBe(0);
    const rows = parse(output);
    expect(rows).toMatchObject([{ name, backend: "native", concurrency: 1 }]);
    for (const row of rows) expectFigures(row);
  },
  60_000,
);

test("an unknown case is refused with what there is", async () => {
  const { code, notes } = await bench("--only", "clod");
  expect(code).toBe(2);
  expect(notes).toContain("no case clod; did you mean cold?");
});
