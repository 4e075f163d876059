/** What sandboxes of any service elsewhere have to do. */

import { expect, test } from "bun:test";
import type { Task } from "../../src/core/types.ts";
import type { RemoteProvider } from "../../src/sandbox/backends/remote-provider.ts";
import { grade } from "../../src/sandbox/grading.ts";
import { ENVIRONMENT, file, LIMITS, outcome, output, text } from "./support.ts";

const task = (script: string): Task => ({
  ...{ id: "test/remote", suite: "test", family: "remote", split: "train", seed: 1, instruction: "" },
  ...{ environment: ENVIRONMENT, files: [], tests: [file("test.sh", script)], solution: [], demonstrations: [] },
  timeouts: { command: 5, agent: 10, verifier: 20 },
});
const CHECK = `if [ "$(cat done.txt 2>/dev/null)" = ok ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n`;

/** Declares the tests. `living` tells how many sandboxes the service has. */
export function testRemote(provider: () => RemoteProvider, living: () => Promise<number>): void {
  test("one shell keeps folder and variables; exit codes and both ends of the output", async () => {
    await using sandbox = await provider().create(ENVIRONMENT);
    expect(await outcome(sandbox, "pwd; mkdir -p a && cd a; export V='x y'; f() { return 7; }")).toEqual([
      0,
      "/work\n",
    ]);
    expect(await outcome(sandbox, 'echo "$V $PWD"; f')).toEqual([7, "x y /work/a\n"]);
    expect(await outcome(sandbox, "cat <<'E'\n$V\nE\necho ü; echo err >&2; (exit 3)")).toEqual([3, "$V\nü\nerr\n"]);
    const long = await sandbox.run("seq 100000", { timeoutMs: 20_000, maxOutputBytes: 1000 });
    expect(long).toMatchObject({ exitCode: 0, truncated: true, status: "exited" });
    expect(text(long.output)).toMatch(/^1\n2\n.*bytes omitted.*\n100000\n$/s);
  });

  test("a command that takes too long is told; the shell can be used on", async () => {
    await using sandbox = await provider().create(ENVIRONMENT);
    await sandbox.run("cd /tmp; V=1", LIMITS);
    expect(await sandbox.run("sleep 60", { timeoutMs: 700, maxOutputBytes: 100 })).toMatchObject({
      ...{ status: "timeout", exitCode: null },
    });
    expect((await outcome(sandbox, "echo on"))[1]).toBe("on\n");
    expect(await sandbox.exec(["sleep", "60"], { ...LIMITS, timeoutMs: 500, cwd: "/" })).toMatchObject({
      ...{ status: "timeout", exitCode: null },
    });
  });

  test("programs: arguments as they are, folder, variables, input, streams apart or together", async () => {
    await using sandbox = await provider().create(ENVIRONMENT);
    const script = 'printf "%s|" "$@" "$PWD" "$V"; cat; echo err >&2; exit 5';
    const argv = ["sh", "-c", script, "sh", "a b", "'\"$x", "\n"];
    const options = { ...LIMITS, cwd: "/tmp", env: { V: "v 1" }, stdin: new TextEncoder().encode("in") };
    const apart = await sandbox.execSeparate(argv, options);
    expect([apart.exitCode, text(apart.output), text(apart.errorOutput)]).toEqual([
      ...[5, "a b|'\"$x|\n|/tmp|v 1|in", "err\n"],
    ]);
    expect(text((await sandbox.exec(argv, options)).output)).toBe("a b|'\"$x|\n|/tmp|v 1|inerr\n");
    expect(await output(sandbox, "ls -A /tmp")).toBe("");
  });

  test("files: every byte, modes, no links, no devices, a limit", async () => {
    await using sandbox = await provider().create(ENVIRONMENT);
    const bytes = Uint8Array.from({ length: 4_000_000 }, (_, i) => (i * 31) & 0xff);
    await sandbox.upload("/work/deep", [file("a/bytes", bytes), file("run", "#!/bin/sh\necho ran\n", 0o755)]);
    expect(await outcome(sandbox, "deep/run; stat -c %a deep/run deep/a/bytes")).toEqual([0, "ran\n755\n644\n"]);
    const back = await sandbox.readFile("/work/deep/a/bytes", 5_000_000);
    expect(back !== null && Buffer.compare(back, bytes)).toBe(0);
    await sandbox.run("ln -s /etc/passwd link; ln -s deep folder; mkfifo pipe", LIMITS);
    for (const path of ["/work/link", "/work/folder/run", "/work/pipe", "/dev/zero", "/work/deep"])
      await expect(sandbox.readFile(path, 100)).rejects.toThrow("is no regular file");
    await expect(sandbox.readFile("/work/deep/a/bytes", 100)).rejects.toThrow("is larger than 100 bytes");
    expect(await sandbox.readFile("/work/none", 100)).toBeNull();
  });

  test("ending all processes: daemons too, and the shell goes on in the working directory", async () => {
    await using sandbox = await provider().create(ENVIRONMENT);
    await sandbox.run(
      "cd /tmp; (trap '' TERM; setsid sleep 77) & setsid sh -c 'while :; do sleep 77 & sleep 0.01; done' &",
      LIMITS,
    );
    await sandbox.killAll();
    const count =
      "n=0; for d in /proc/[0-9]*; do grep -qz '^77$' $d/cmdline 2>/dev/null && n=$((n + 1)); done; echo $n $PWD";
    expect(await output(sandbox, count)).toBe("0 /work\n");
  });

  test("grading in a fresh sandbox: the work folder arrives, what else was done does not", async () => {
    const graded = async (command: string) => {
      await using sandbox = await provider().create(ENVIRONMENT);
      await sandbox.run(command, LIMITS);
      return await grade(provider(), sandbox, task(CHECK));
    };
    expect(await graded("mkdir x; echo ok > done.txt")).toMatchObject({ reward: 1, mode: "clean" });
    expect(await graded("mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt")).toMatchObject({ reward: 0 });
  });

  test("what there is not is said, and what ends is gone", async () => {
    const before = await living();
    const sandbox = await provider().create(ENVIRONMENT);
    expect(await living()).toBe(before + 1);
    await expect(sandbox.snapshot()).rejects.toMatchObject({ code: "sandbox" });
    const command = sandbox.run("sleep 60", { ...LIMITS, signal: AbortSignal.timeout(300) });
    await expect(command).rejects.toMatchObject({ code: "interrupted" });
    await sandbox.destroy();
    await sandbox.destroy();
    expect(await living()).toBe(before);
    await expect(sandbox.run("true", LIMITS)).rejects.toThrow("is destroyed");
  });
}
