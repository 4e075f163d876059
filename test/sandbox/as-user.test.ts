/** The same tests as an ordinary user: no control groups, one user in the sandbox, a /usr that cannot be changed. */

import { expect, test } from "bun:test";
import { chownSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { buildCachedLauncher } from "../../src/sandbox/launcher/build.ts";

const NOBODY = 65534;
const REPOSITORY = resolve(import.meta.dir, "../..");
const SUITES = [
  "session",
  "semantics",
  "churn",
  "bench",
  "files",
  "isolation",
  "limits",
  "lifecycle",
  "warm",
  "grading",
  "snapshots",
  "shells",
  "interrupts",
  "edit",
  "service",
  "service-abuse",
  "api",
  "rock",
  "cli",
  "images",
  "archive",
  "guards",
  "network",
  "ports",
  "abuse-quotas",
  "abuse-init",
  "abuse-layers",
  "abuse-grading",
  "containers",
  "landlock",
];

/** Why this machine cannot run them, or `undefined`. */
function reasonToSkip(): string | undefined {
  if (process.getuid?.() !== 0) return "the tests run as an ordinary user already";
  if (Bun.which("setpriv") === null) return "setpriv (util-linux) is not installed";
  const look = Bun.spawnSync([...asNobody(), process.execPath, "--version"], { cwd: REPOSITORY, timeout: 20_000 });
  return look.exitCode === 0 ? undefined : "user nobody cannot read the repository or run bun";
}

const asNobody = () => ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "--no-new-privs"];

const reason = reasonToSkip();
if (reason !== undefined) console.log(`skipped: sandboxes as an ordinary user: ${reason}`);

test.skipIf(reason !== undefined).each(SUITES)(
  "%s",
  async (suite) => {
    await buildCachedLauncher(); // the user may not write the cache
    const home = mkdtempSync(join(tmpdir(), "ale-as-user-"));
    chownSync(home, NOBODY, NOBODY);
    const child = Bun.spawn(
      [...asNobody(), process.execPath, "test", "--timeout=60000", `test/sandbox/${suite}.test.ts`],
      { cwd: REPOSITORY, env: { PATH: process.env.PATH, HOME: home, TMPDIR: home }, stdout: "pipe", stderr: "pipe" },
    );
    const [report] = await Promise.all([new Response(child.stderr).text(), new Response(child.stdout).text()]);
    const code = await child.exited;
    rmSync(home, { recursive: true, force: true });
    if (code !== 0) console.error(report);
    expect(report).toMatch(/^ *0 fail$/m);
    expect(Number(/^ *(\d+) pass$/m.exec(report)?.[1])).toBeGreaterThan(3);
    expect(code).toBe(0);
  },
  240_000, // podman takes seconds for each container of a user without a login
);
