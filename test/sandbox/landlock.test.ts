/**
 * The level below user namespaces, as an ordinary user (as-user.test.ts): what it holds back, what it does not, and that nobody
 * gets it who did not ask.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createLandlockProvider } from "../../src/sandbox/backends/landlock-provider.ts";
import { grade } from "../../src/sandbox/grading.ts";
import type { NativeSandboxProvider } from "../../src/sandbox/supervisor.ts";
import { checkSuite } from "../../src/tasks/check.ts";
import { loadSuite } from "../../src/tasks/suite.ts";
import { ENVIRONMENT, file, LIMITS, outcome, output, text, until } from "./support.ts";

const REPOSITORY = resolve(import.meta.dir, "../..");
const root = process.getuid?.() === 0;
let folder: string;
let provider: NativeSandboxProvider;

test.if(root)("as root there is no such level: nothing would limit processes", async () => {
  await expect(createLandlockProvider({ maskPaths: [], stateDir: "/nonesuch" })).rejects.toThrow(
    "cannot be had as root",
  );
});

describe.skipIf(root)("without namespaces", () => {
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "ale-landlock-"));
    writeFileSync(join(folder, "secret"), "host-secret");
    provider = await createLandlockProvider({ maskPaths: ["/usr/share/doc"], stateDir: join(folder, "state") });
  });
  afterAll(async () => {
    await provider?.close();
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  test("the level says what there is, and no more", () => {
    expect(provider.isolation).toMatch(/^user\+landlock\d+\+seccomp\+rlimits$/);
  });

  test("the usual paths, shells and files", async () => {
    await using sandbox = await provider.create(ENVIRONMENT);
    await sandbox.upload("/work", [file("a/f", "1\n"), file("run", "#!/bin/sh\ncat /work/a/f", 0o755)]);
    expect(await outcome(sandbox, "pwd; cat a/f /work/a/f; ./run; echo 2 > /tmp/x; cd /tmp; V=3")).toEqual([
      0,
      "/work\n1\n1\n1\n",
    ]);
    expect(await outcome(sandbox, 'echo "$PWD $V $HOME"; cat x; (exit 7)')).toEqual([7, "/tmp 3 /root\n2\n"]);
    expect(text(await sandbox.readFile("/work/a/f", 100))).toBe("1\n");
    const program = await sandbox.execSeparate(["cat", "/work/a/f", "-"], {
      ...{ ...LIMITS, cwd: "/work/a", stdin: new TextEncoder().encode("in") },
    });
    expect(text(program.output)).toBe("1\nin");
  });

  test("the host's files, what is masked, sockets, and processes outside are out of reach", async () => {
    await using sandbox = await provider.create(ENVIRONMENT);
    await using neighbour = await provider.create(ENVIRONMENT);
    await neighbour.run("echo theirs > /work/f; sleep 555 &", LIMITS);
    const state = join(folder, "state");
    expect(
      (await outcome(sandbox, `cat ${folder}/secret; ls ${state} /home /etc /usr/share/doc; echo > /usr/x`))[1],
    ).not.toMatch(/host-secret|^ale-|passwd$|copyright/m);
    const reach = `for f in ${state}/*/root/work/f; do cat "$f"; done; kill -0 ${process.pid} && echo signalled`;
    expect(await output(sandbox, `${reach}; kill -9 $PPID && echo killed; cat /proc/$PPID/environ`)).not.toMatch(
      /theirs|signalled|^killed/m,
    );
    expect(await output(sandbox, "(exec 3<>/dev/tcp/127.0.0.1/9) 2>&1")).toContain("Address family not supported");
    expect(await output(sandbox, "grep -E '^(NoNewPrivs|Seccomp|CapEff)' /proc/self/status")).toContain(
      "NoNewPrivs:\t1",
    );
    expect(await outcome(neighbour, "jobs -r | wc -l")).toEqual([0, "1\n"]);
  });

  test("more processes than allowed end all of them; the sandbox goes on", async () => {
    await using sandbox = await provider.create(ENVIRONMENT);
    await sandbox.run("for i in $(seq 60); do sleep 2 & done 2>/dev/null; wait", LIMITS);
    await until("a shell", 20_000, async () => (await sandbox.run("echo on", LIMITS)).exitCode === 0);
    expect((await sandbox.limitEvents()).pids).toBe(1);
  });

  test("ended or killed with Ale, no process of a sandbox is left", async () => {
    const sandbox = await provider.create(ENVIRONMENT);
    const mark = 7_000_000 + process.pid;
    await sandbox.run(`setsid sleep ${mark} & (trap '' TERM; setsid sleep ${mark}) &`, LIMITS);
    const left = () =>
      Bun.spawnSync(["pgrep", "-fc", `^sleep ${mark}`])
        .stdout.toString()
        .trim();
    await until("the sleepers", 10_000, () => left() === "2");
    await sandbox.destroy();
    expect(left()).toBe("0");
    const script = `
      const { createLandlockProvider } = await import("${REPOSITORY}/src/sandbox/backends/landlock-provider.ts");
      const provider = await createLandlockProvider({ maskPaths: [], stateDir: "${folder}/state" });
      const sandbox = await provider.create(${JSON.stringify(ENVIRONMENT)});
      await sandbox.run("setsid sleep ${mark} &", { timeoutMs: 9999, maxOutputBytes: 99 });
      process.kill(process.pid, "SIGKILL");`;
    const child = Bun.spawn(["/proc/self/exe", "-e", script], { env: process.env, stderr: "inherit" });
    await child.exited;
    expect(child.signalCode).toBe("SIGKILL");
    await until("the killed process's sleeper is gone", 20_000, () => left() === "0");
  });

  test("every family of the shell suite: its solution scores 1, nothing done scores 0", async () => {
    const suite = loadSuite(join(REPOSITORY, "tasks/shell"));
    const options = { samples: suite.families.length, concurrency: 2, signal: new AbortController().signal };
    const rows = await checkSuite(suite, provider, grade, options, () => {});
    const wrong = rows.filter(({ oracle, noop }) => oracle !== 1 || noop !== 0);
    expect(wrong).toEqual([]);
    expect(rows.length).toBe(suite.families.length);
  }, 120_000);

  test("where user namespaces are forbidden, only whoever allows it gets this level", async () => {
    const command = ["sandbox", "run", "--json", "--memory", "64"];
    const bun = join(folder, "bun"); // where it is need not be open to this user
    copyFileSync("/proc/self/exe", bun);
    const run = (...more: string[]) => {
      const ale = [bun, join(REPOSITORY, "src/main.ts"), ...command, ...more, "--", "sh", "-c", "echo $PWD"];
      const forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"';
      const child = Bun.spawnSync(
        ["unshare", "-U", "--map-current-user", "--keep-caps", "sh", "-c", forbid, "sh", ...ale],
        {
          env: { ...process.env, ALE_HOME: join(folder, "home") },
        },
      );
      return { code: child.exitCode, out: child.stdout.toString(), err: child.stderr.toString() };
    };
    const refused = run();
    expect(refused.code).toBe(1);
    expect(refused.err).toContain("sysctl -w user.max_user_namespaces=65536");
    const weak = run("--least-isolation", "landlock");
    expect(weak.err).toContain("landlock");
    expect(JSON.parse(weak.out)).toMatchObject({ exitCode: 0, stdout: "/work\n" });
  }, 60_000);
});
