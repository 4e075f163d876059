/** Sandboxes that are made, used and ended at random moments leave nothing behind. The long version: `bun run bench churn`. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { type ChurnResult, churn } from "../../bench/churn-run.ts";
import { childrenOf, type Inventory, takeInventory } from "../../bench/inventory.ts";
import { ENVIRONMENT, openProvider, type TestProvider, until } from "./support.ts";

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
  expect(withoutClosed(kind, result.after[kind])).toEqual(result.before[kind]);
});

/** This process may close what other tests left open, meanwhile. */
function withoutClosed(kind: keyof Inventory, after: string | number): string | number {
  const [own = "", ...others] = String(after).split(" ");
  const [then = ""] = String(result.before[kind]).split(" ");
  return kind === "descriptors" && Number(own) < Number(then) ? [then, ...others].join(" ") : after;
}

test("the launcher has not grown", () => {
  expect(result.memoryAfter.launcher - result.memoryBefore.launcher).toBeLessThan(8);
});

test("one that is killed while it is made leaves nothing, and is told at once", async () => {
  const factory = childrenOf(provider.launcherPid);
  const before = takeInventory(provider, provider.stateDir);
  for (let i = 0; i < 60; i++) {
    const making = provider.create(ENVIRONMENT).then(
      (sandbox) => sandbox.destroy(),
      () => {},
    );
    await new Promise((resolve) => setImmediate(resolve)); // the request is on its way
    killFirstChild(provider.launcherPid, factory);
    await making; // one that nobody answers would run into the test's time limit
  }
  const left = () => takeInventory(provider, provider.stateDir);
  await until("everything is gone", 5_000, () => Bun.deepEquals(left(), before)).catch(() => {});
  expect(left()).toEqual(before);
}, 20_000);

/** As soon as there is one besides `spared`, within 20 ms. Without a pause: it is being made for a millisecond. */
function killFirstChild(parent: number, spared: readonly number[]): void {
  const end = performance.now() + 20;
  while (performance.now() < end) {
    const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").trim().split(" ").map(Number);
    const child = children.find((pid) => pid > 0 && !spared.includes(pid));
    if (child === undefined) continue;
    try {
      process.kill(child, "SIGKILL");
    } catch {
      // It has another name now, of whom only root may kill it, or it has ended.
    }
    return;
  }
}

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
