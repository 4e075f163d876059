/** Sandboxes that are made, used and ended at random moments leave nothing behind. The long version: `bun run bench churn`. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { join, resolve } from "node:path";
import { type ChurnResult, churn } from "../../bench/churn-run.ts";
import type { Inventory } from "../../bench/inventory.ts";
import { openProvider, type TestProvider } from "./support.ts";

const COUNT = 300;
const LONG_MS = 120_000;

let provider: TestProvider;
let result: ChurnResult;
beforeAll(async () => {
  provider = await openProvider();
  result = await churn({ provider, stateDir: provider.stateDir, count: COUNT, concurrency: 8, seed: "test" });
}, LONG_MS);
afterAll(() => provider?.close());

const counted = (name: string) => result.tally.counts.get(name) ?? 0;

test("every sandbox ended, and each in a way that it may", () => {
  expect(result.tally.unexpected).toEqual([]);
  expect(counted("destroyed")).toBeGreaterThan(COUNT * 0.8);
  expect(counted("killed from outside")).toBeGreaterThan(5);
  expect(counted("from the pool")).toBeGreaterThan(5);
  expect(counted("forked")).toBeGreaterThan(0);
});

test.each([
  "processes",
  "mounts",
  "cgroups",
  "namespaces",
  "descriptors",
  "files",
] as const satisfies readonly (keyof Inventory)[])("no %s are left", (kind) => {
  expect(result.after[kind]).toEqual(result.before[kind]);
});

test("the launcher has not grown", () => {
  expect(result.memoryAfter.launcher - result.memoryBefore.launcher).toBeLessThan(8);
});

/** Why not, or `undefined`. An ordinary user may not start Bun from there where it lies in a folder of root's. */
const skipped =
  process.getuid?.() !== 0
    ? "as an ordinary user"
    : Bun.which("unshare") === null
      ? "unshare is not installed"
      : undefined;
if (skipped !== undefined) console.log(`skipped: a machine with few namespaces: ${skipped}`);

/** In a user namespace that allows 150 of each kind: sandboxes whose namespaces are not given back would find none left. */
test.skipIf(skipped !== undefined)(
  "namespaces are given back to the kernel",
  async () => {
    const script =
      'for kind in user mnt pid net ipc uts cgroup; do echo 150 > /proc/sys/user/max_${kind}_namespaces || exit 9; done; exec "$@"';
    const bench = resolve(import.meta.dir, "../../bench/churn.ts");
    const run = [process.execPath, bench, "--count", "400", "--concurrency", "6", "--json"];
    const child = Bun.spawn(["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", ...run], {
      cwd: join(import.meta.dir, "../.."),
      stdout: "pipe",
      stderr: "pipe",
    });
    const [output, complaint] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    expect([await child.exited, complaint]).toEqual([0, ""]);
    expect(JSON.parse(output)).toMatchObject({ unexpected: [], isolation: expect.stringMatching(/^user\+userns/) });
  },
  LONG_MS,
);
