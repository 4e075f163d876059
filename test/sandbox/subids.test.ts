/**
 * Sandboxes with ids of their own: ranges as root, and subordinate ids of an ordinary user, as `as-user.test.ts` runs this: one
 * user with many, one with so few that they run out (`ALE_TEST_SUBIDS`).
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { importImage } from "../../src/images/import-image.ts";
import { probeSandbox } from "../../src/sandbox/doctor.ts";
import { grade } from "../../src/sandbox/grading.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { checkSuite } from "../../src/tasks/check.ts";
import { loadSuite } from "../../src/tasks/suite.ts";
import { BUSYBOX, busybox, onImage, openImageHome, tarOf } from "./image-support.ts";
import {
  ENVIRONMENT,
  file,
  LIMITS,
  openProvider,
  outcome,
  output,
  SUBIDS,
  type TestProvider,
  until,
} from "./support.ts";

const isRoot = process.getuid?.() === 0;
const LEVEL = isRoot ? /^root\+userns\+seccomp\+/ : /^user\+subids\+userns\+seccomp\+/;
const WITHOUT = /^user\+userns\+seccomp\+/;
let provider: TestProvider;
beforeAll(async () => {
  provider = await openProvider();
});
afterAll(() => provider?.close());

let nextMark = 2_000_000 + process.pid * 100;

/** The machine's ids of a process in a sandbox: of users, of groups. */
async function hostIds(sandbox: NativeSandbox, command = ""): Promise<{ uid: number; gid: number; groups: string }> {
  const mark = nextMark++;
  await sandbox.run(`${command} sleep ${mark} >/dev/null 2>&1 &`, LIMITS);
  const find = () =>
    readdirSync("/proc").find((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8") === `sleep\0${mark}\0`;
      } catch {
        return false;
      }
    });
  await until("the sleeper", 10_000, () => find() !== undefined);
  const status = readFileSync(`/proc/${find()}/status`, "utf8");
  const field = (name: string) => new RegExp(`^${name}:\\t(.*)$`, "m").exec(status)?.[1] ?? "";
  return {
    uid: Number.parseInt(field("Uid"), 10),
    gid: Number.parseInt(field("Gid"), 10),
    groups: field("Groups").trim(),
  };
}

test.skipIf(SUBIDS > 0)("without subordinate ids no level says there are", () => {
  expect(provider.isolation).not.toContain("ids");
});

/** Busybox, and a closed folder of another user's. */
const smallImage = () => [
  { path: "bin/busybox", content: readFileSync(BUSYBOX as string), mode: 0o755 },
  { path: "closed", flag: "5", mode: 0o700, uid: 1000 },
  { path: "closed/f", content: "f\n", mode: 0o600, uid: 1000 },
];

/** Where root's sandboxes share their ids, on old kernels and in some containers, there is nothing to test. */
function testOwn(name: string, body: () => Promise<void>): void {
  test(name, async () => {
    if (!isRoot || LEVEL.test(provider.isolation)) return body();
    console.log(`skipped: ${name}: sandboxes are ${provider.isolation} here`);
  });
}

describe.skipIf(!isRoot && SUBIDS < 1000)("with ids of their own", () => {
  testOwn("each sandbox has its own, and none is the user's", async () => {
    expect(provider.isolation).toMatch(LEVEL);
    const sandboxes = await Promise.all(Array.from({ length: 5 }, () => provider.create(ENVIRONMENT)));
    const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
    const users = new Set<number>();
    for (const sandbox of sandboxes) {
      expect(sandbox.isolation).toBe(provider.isolation);
      for (const command of ["", "setpriv --reuid=65534 --regid=65534 --clear-groups"]) {
        const { uid, gid, groups } = await hostIds(sandbox, command);
        expect(uid).toBeGreaterThan(own.uid);
        expect(gid).toBeGreaterThan(own.gid);
        expect(groups).toBe("");
        users.add(uid);
      }
    }
    expect(users.size).toBe(10);
    await Promise.all(sandboxes.map((sandbox) => sandbox.destroy()));
  });

  testOwn("files of several owners, closed ones too, go on in forks of forks, whose ids are others", async () => {
    await using sandbox = await provider.create(ENVIRONMENT);
    const make = "mkdir -m 700 d; echo root > d/f; chmod 600 d/f; echo ann > g; chown 1000:1000 g; chmod 400 g";
    expect(await outcome(sandbox, `${make}; mkdir -m 700 n; chown 65534 n`)).toEqual([0, ""]);
    await using snapshot = await sandbox.snapshot();
    await using fork = await provider.fork(snapshot);
    const change = "cat d/f g; echo more >> d/f; chown 0 g; rmdir n; touch d/g; stat -c '%n %u %a' d d/f g";
    expect(await output(fork, change)).toBe("root\nann\nd 0 700\nd/f 0 600\ng 0 400\n");
    await using deeper = await fork.snapshot();
    await using grandchild = await provider.fork(deeper);
    expect(await output(grandchild, "cat d/f; stat -c %u g; ls d; ls -d n 2>&1 | grep -c cannot")).toBe(
      "root\nmore\n0\nf\ng\n1\n",
    );
    expect(await output(sandbox, "cat d/f; stat -c '%u %a' g n")).toBe("root\n1000 400\n65534 700\n");
    const ids = await Promise.all([sandbox, fork, grandchild].map(async (one) => (await hostIds(one)).uid));
    expect(new Set(ids).size).toBe(3);
  });

  testOwn("what was written is found in closed folders, and nothing else is", async () => {
    await using sandbox = await provider.create(ENVIRONMENT);
    await output(sandbox, "mkdir -m 700 /work/closed /logs/own; echo 1 > /work/closed/f; chmod 700 /work");
    const paths = ["/work/closed/f", "/work/closed/g", "/work/h", "/logs/own/x", "/tests"];
    expect(await sandbox.writtenPaths(paths)).toEqual(["/work/closed/f"]);
  });

  testOwn("ids are given back: more sandboxes than there are blocks, one after another", async () => {
    const seen = new Set<number>();
    for (let i = 0; i < 8; i++) {
      await using sandbox = await provider.create(ENVIRONMENT);
      expect(sandbox.isolation).toMatch(LEVEL);
      seen.add((await hostIds(sandbox)).uid);
    }
    expect(seen.size).toBe(8); // those just given back are not the next
  });

  testOwn("as root on files on disk, too", async () => {
    if (!isRoot || BUSYBOX === undefined) return console.log("skipped: images as root: needs root and busybox");
    await using own = await openImageHome();
    await importImage(own.images, own.provider, own.file("small.tar", tarOf(smallImage())), "small");
    await using one = await own.provider.create(onImage("small"));
    await using other = await own.provider.create(onImage("small"));
    expect([one.isolation, other.isolation]).toEqual([own.provider.isolation, own.provider.isolation]);
    const change = "cd /closed; cat f; echo g >> f; cat f; stat -c '%u %a' f; chown 7 f; stat -c %u f";
    expect(await busybox(one, change)).toBe("f\nf\ng\n1000 600\n7\n");
    expect(await busybox(other, change)).toBe("f\nf\ng\n1000 600\n7\n");
    const layer = join(own.home, "layers", own.layers()[0] ?? "", "root.up/closed/f");
    expect(statSync(layer).uid).toBe(1000);
  });
});

describe.skipIf(SUBIDS < 1000)("with subordinate ids", () => {
  test("the limit on processes holds for all ids of a sandbox together", async () => {
    await using sandbox = await provider.create({ ...ENVIRONMENT, pids: 24 });
    const each = "sleep 0.5; for j in $(seq 30); do sleep 60 & done 2>/dev/null; wait";
    const ids = "for id in 0 1 2 33 100 1000 65534";
    await sandbox.run(`${ids}; do setpriv --reuid=$id --clear-groups bash -c '${each}' & done 2>/dev/null`, LIMITS);
    let seen = 0;
    await until("the limit", 10_000, async () => {
      seen = Number(await output(sandbox, "set -- /proc/[0-9]*; echo $#")); // without another process
      return seen >= 24;
    });
    await Bun.sleep(500);
    expect(Number(await output(sandbox, "set -- /proc/[0-9]*; echo $#"))).toBeLessThanOrEqual(26); // with init and shell
  });

  test("every family of the shell suite: its solution scores 1, nothing done scores 0", async () => {
    const suite = loadSuite(resolve(import.meta.dir, "../../tasks/shell"));
    const options = { samples: suite.families.length, concurrency: 2, signal: new AbortController().signal };
    const rows = await checkSuite(suite, provider, grade, options, () => {});
    expect(rows.filter(({ oracle, noop }) => oracle !== 1 || noop !== 0)).toEqual([]);
    expect(rows.length).toBe(suite.families.length);
  }, 120_000);

  test("with the user's one id where that is asked for", async () => {
    await using single = await openProvider({ subids: "off" });
    expect(single.isolation).toMatch(WITHOUT);
    await using sandbox = await single.create(ENVIRONMENT);
    expect((await hostIds(sandbox)).uid).toBe(process.getuid?.() ?? -1);
  });

  test("doctor says how far they go", async () => {
    const found = await probeSandbox();
    expect(found.find(({ name }) => name === "subordinate ids")).toMatchObject({
      ok: true,
      detail: `${SUBIDS} ids, 32 for each of ${SUBIDS / 32 - 1} sandboxes`,
    });
    expect(found.find(({ name }) => name === "sandbox")?.detail).toMatch(LEVEL);
  });

  test.skipIf(BUSYBOX === undefined)(
    "on files on disk a sandbox's root is the user, and its level says so",
    async () => {
      const own = await openImageHome();
      try {
        await importImage(own.images, own.provider, own.file("small.tar", tarOf(smallImage())), "small");
        await using sandbox = await own.provider.create(onImage("small"));
        expect(sandbox.isolation).toMatch(WITHOUT);
        expect(own.provider.isolation).toMatch(LEVEL);
        expect(await busybox(sandbox, "cd /closed; cat f; echo g >> f; cat f; chown 1000 f && stat -c %u f")).toBe(
          "f\nf\ng\n1000\n",
        );
        const layer = join(own.home, "layers", own.layers()[0] ?? "", "root.up/closed/f");
        expect(statSync(layer).uid).toBe(process.getuid?.() ?? -1);
      } finally {
        await own[Symbol.asyncDispose]();
      }
      expect(existsSync(own.home)).toBe(false);
    },
  );
});

describe.skipIf(SUBIDS === 0 || SUBIDS >= 1000)("with few subordinate ids", () => {
  test("the last block is shared by those that come too late, whose level says so; others keep theirs", async () => {
    expect(provider.isolation).toMatch(LEVEL);
    const blocks = SUBIDS / 32 - 1;
    const sandboxes = await Promise.all(Array.from({ length: blocks + 2 }, () => provider.create(ENVIRONMENT)));
    const shares = sandboxes.filter(({ isolation }) => isolation.startsWith("user+sharedids+userns+"));
    expect(shares.length).toBe(2);
    const ids = await Promise.all(sandboxes.map(async (sandbox) => (await hostIds(sandbox)).uid));
    expect(new Set(ids).size).toBe(blocks + 1);
    expect(ids).not.toContain(process.getuid?.() ?? 0);
    const [freed] = sandboxes.filter((sandbox) => !shares.includes(sandbox));
    await freed?.destroy();
    await using next = await provider.create(ENVIRONMENT);
    expect(next.isolation).toMatch(LEVEL);
    for (const sandbox of sandboxes) await sandbox.destroy();
  });

  test("sandboxes that share ids see nothing of one another", async () => {
    const sandboxes = await Promise.all(Array.from({ length: SUBIDS / 32 + 1 }, () => provider.create(ENVIRONMENT)));
    const [one, other] = sandboxes.slice(-2) as [NativeSandbox, NativeSandbox];
    await one.upload("/work", [file("f", "mine")]);
    await output(one, "sleep 77 &");
    expect(await output(other, "ls /work; set -- /proc/[0-9]*; echo $#; kill -9 -1 2>/dev/null; echo on")).toBe(
      "2\non\n",
    );
    expect(await output(one, "cat /work/f; jobs -r | wc -l")).toBe("mine1\n");
    for (const sandbox of sandboxes) await sandbox.destroy();
  });
});
