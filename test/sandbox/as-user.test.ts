/**
 * The same tests as an ordinary user: no control groups, a /usr that cannot be changed, and one user in the sandbox, or those
 * that subordinate ids stand for.
 */

import { afterAll, expect, test } from "bun:test";
import { chownSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { buildCachedLauncher } from "../../src/sandbox/launcher/build.ts";

const NOBODY = 65534;
const REPOSITORY = resolve(import.meta.dir, "../..");
const SUITES = [
  "session",
  "churn",
  "bench",
  "isolation",
  "limits",
  "lifecycle",
  "warm",
  "service-abuse",
  "guards",
  "network",
  "networks",
  "names",
  "ports",
  "abuse-quotas",
  "abuse-init",
  "abuse-layers",
  "abuse-grading",
  "landlock",
];

/**
 * podman takes seconds for each container of a user without a login, and mostly waits: meanwhile those run, one after the other, that look at
 * nothing but sandboxes of their own.
 */
const MEANWHILE = [
  "semantics",
  "files",
  "grading",
  "snapshots",
  "shells",
  "interrupts",
  "edit",
  "service",
  "api",
  "network-programs",
  "rock",
  "cli",
  "images",
  "image-commit",
  "archive",
];

/** What subordinate ids change. */
const WITH_SUBIDS = [
  "subids",
  "files",
  "isolation",
  "limits",
  "lifecycle",
  "snapshots",
  "shells",
  "edit",
  "churn",
  "service",
  "images",
  "image-commit",
  "archive",
  "guards",
  "network",
  "networks",
  "names",
  "abuse-quotas",
  "abuse-init",
  "abuse-layers",
  "abuse-grading",
];
/** Users of the tests' own, with how many subordinate ids. */
const MANY = { name: "ale-test-subids", subids: 65_536, suites: WITH_SUBIDS };
const FEW = { name: "ale-test-few", subids: 96, suites: ["subids"] };
type SubidUser = typeof MANY;

/** Why this machine cannot run them, or `undefined`. */
function reasonToSkip(): string | undefined {
  if (process.getuid?.() !== 0) return "the tests run as an ordinary user already";
  if (Bun.which("setpriv") === null) return "setpriv (util-linux) is not installed";
  const look = Bun.spawnSync([...asNobody(), process.execPath, "--version"], { cwd: REPOSITORY, timeout: 20_000 });
  return look.exitCode === 0 ? undefined : "user nobody cannot read the repository or run bun";
}

const asNobody = () => ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "--no-new-privs"];

const asSubidUser = (name: string) => ["setpriv", `--reuid=${name}`, `--regid=${name}`, "--clear-groups"];
const made: string[] = [];

/** As `reasonToSkip`, for a user who is made when there is none. */
function makeUser({ name, subids }: SubidUser): string | undefined {
  for (const tool of ["newuidmap", "useradd", "usermod", "userdel"])
    if (Bun.which(tool) === null) return `${tool} (uidmap, passwd) is not installed`;
  const grant = ["-K", `SUB_UID_COUNT=${subids}`, "-K", `SUB_GID_COUNT=${subids}`];
  const add = ["useradd", "--no-create-home", "--user-group", "--shell", "/bin/false", ...grant, name];
  const { exitCode, stderr } = Bun.spawnSync(add, { timeout: 20_000 });
  const exists = exitCode === 9;
  if (exitCode === 0) made.push(name);
  return exitCode === 0 || exists ? undefined : `useradd: ${stderr.toString().trim()}`;
}

afterAll(() => {
  for (const name of made) Bun.spawnSync(["userdel", name], { timeout: 20_000 });
});

async function runSuite(
  suite: string,
  become: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<void> {
  await buildCachedLauncher(); // the user may not write the cache
  const home = mkdtempSync(join(tmpdir(), "ale-as-user-"));
  const owner = Number(Bun.spawnSync([...become, "id", "-u"]).stdout.toString());
  chownSync(home, owner, owner);
  const child = Bun.spawn([...become, process.execPath, "test", "--timeout=60000", `test/sandbox/${suite}.test.ts`], {
    ...{ cwd: REPOSITORY, stdout: "pipe", stderr: "pipe" },
    env: { PATH: process.env.PATH, HOME: home, TMPDIR: home, ...env },
  });
  const [report] = await Promise.all([new Response(child.stderr).text(), new Response(child.stdout).text()]);
  const code = await child.exited;
  rmSync(home, { recursive: true, force: true });
  if (code !== 0) console.error(`${suite}:\n${report}`);
  expect(report).toMatch(/^ *0 fail$/m);
  expect(Number(/^ *(\d+) pass$/m.exec(report)?.[1])).toBeGreaterThan(suite === "subids" ? 1 : 2);
  expect(code).toBe(0);
}

const reason = reasonToSkip();
if (reason !== undefined) console.log(`skipped: sandboxes as an ordinary user: ${reason}`);

test.skipIf(reason !== undefined).each(SUITES)("%s", (suite) => runSuite(suite, asNobody(), {}), 240_000);

test.skipIf(reason !== undefined)(
  `containers, and meanwhile ${MEANWHILE.join(", ")}`,
  async () => {
    const others = async () => {
      for (const suite of MEANWHILE) await runSuite(suite, asNobody(), {});
    };
    const results = await Promise.allSettled([runSuite("containers", asNobody(), {}), others()]);
    for (const result of results) if (result.status === "rejected") throw result.reason;
  },
  480_000,
);

for (const user of [MANY, FEW]) {
  const missing = reason ?? makeUser(user);
  if (missing !== undefined) console.log(`skipped: sandboxes with ${user.subids} subordinate ids: ${missing}`);
  test.skipIf(missing !== undefined).each(user.suites)(
    `%s, with ${user.subids} subordinate ids`,
    (suite) => runSuite(suite, asSubidUser(user.name), { ALE_TEST_SUBIDS: String(user.subids) }),
    240_000,
  );
}
