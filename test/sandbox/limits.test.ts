/** Tasks that take too much: each costs one command or one sandbox, and says which limit it was. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import {
  compileProbe,
  ENVIRONMENT,
  file,
  LIMITS,
  openProvider,
  output,
  type TestProvider,
  text,
  until,
} from "./support.ts";

const NONE = { memory: 0, pids: 0, disk: 0 };
const ROOMY = { ...ENVIRONMENT, memoryBytes: 256 << 20, diskBytes: 256 << 20, pids: 200 };
let probe: Uint8Array;
beforeAll(async () => {
  probe = await compileProbe();
});

/** Every level that this machine has: by control group where they can be had, and always by rlimits. */
describe.each(["auto", "off"] as const)("limits, control groups %s", (cgroups) => {
  let provider: TestProvider;
  let sandbox: NativeSandbox;
  let hard: boolean;
  beforeAll(async () => {
    provider = await openProvider({ cgroups });
    hard = provider.isolation.includes("cgroup");
  });
  afterAll(() => provider?.close());

  const fresh = async (environment = ENVIRONMENT) => {
    sandbox = await provider.create(environment);
    await sandbox.upload("/probe", [file("probe", probe, 0o755)]);
    return sandbox;
  };

  test("nothing is reported of a sandbox that behaves", async () => {
    await using own = await fresh();
    await own.run("ls -R /etc > /tmp/x; for i in 1 2 3; do sleep 0.01 & done; wait", LIMITS);
    expect(await own.limitEvents()).toEqual(NONE);
  });

  test("fork bomb", async () => {
    await using own = await fresh();
    await own.run("b() { b | b & }; b 2>/dev/null; sleep 0.5", { ...LIMITS, timeoutMs: 3000 });
    await until("the process limit", 20_000, async () => (await own.limitEvents()).pids > 0);
    expect(await own.limitEvents()).toEqual({ ...NONE, pids: expect.any(Number) });
    await own.killAll();
    expect(await output(own, "ls -d /proc/[0-9]* | wc -l")).toMatch(/^[2-5]\n$/);
  });

  test("more processes than allowed cannot be", async () => {
    await using own = await fresh();
    const started = await output(
      own,
      "sh -c 'i=0; while [ $i -lt 100 ]; do sleep 60 & i=$((i+1)); done' 2>/dev/null; set -- /proc/[0-9]*; echo $#",
    );
    // The limit, and init and shell.
    expect(Number(started)).toBeLessThanOrEqual(ENVIRONMENT.pids + 2);
    expect(Number(started)).toBeGreaterThan(ENVIRONMENT.pids - 4);
    await own.killAll();
    expect((await own.limitEvents()).pids).toBeGreaterThan(0);
  });

  test.each(["anonymous", "shared", "memfd"])("memory hog: %s", async (kind) => {
    await using own = await fresh();
    const result = await own.run(`/probe/probe hog ${kind} 512`, LIMITS);
    expect(text(result.output)).not.toContain("took 512 MB");
    expect(result.exitCode).not.toBe(0);
    if (hard) expect((await own.limitEvents()).memory).toBeGreaterThan(0);
    // The shell may have been ended first: what a memfd holds is on no process's account.
    await own.killAll();
    expect(await output(own, "echo on")).toBe("on\n");
  });

  test("the kernel would end programs before the init", async () => {
    await using own = await fresh();
    const [init, shell, program] = (
      await output(own, "cat /proc/1/oom_score_adj /proc/$$/oom_score_adj; (exec cat /proc/self/oom_score_adj)")
    )
      .trim()
      .split("\n")
      .map(Number) as [number, number, number];
    expect([shell, program]).toEqual([Math.min(1000, init + 500), Math.min(1000, init + 500)]);
    const exec = await own.exec(["cat", "/proc/self/oom_score_adj"], { ...LIMITS, cwd: "/", stdin: new Uint8Array() });
    expect(Number(text(exec.output))).toBe(shell);
  });

  test("memory hog made of many", async () => {
    await using own = await fresh();
    // Again and again: the watcher, where it is what limits, looks ten times a second.
    await own.run(
      "for n in $(seq 20); do for i in $(seq 12); do /probe/probe hog anonymous 30 & done; wait; done",
      LIMITS,
    );
    expect((await own.limitEvents()).memory).toBeGreaterThan(0);
  });

  test("a task within its limit is left alone", async () => {
    await using own = await fresh();
    expect(await output(own, "/probe/probe hog anonymous 40")).toBe("anonymous took 40 MB\n");
    expect(await own.limitEvents()).toEqual(NONE);
  });

  test.each(["/work", "/tmp", "/dev/shm", "/usr/local/bin"])("disk filler in %s", async (folder) => {
    await using own = await fresh();
    const written = await output(
      own,
      `dd if=/dev/zero of=${folder}/big bs=64k count=2000 2>&1 | grep -o 'No space left\\|denied'`,
    );
    if (folder.startsWith("/usr") && written.startsWith("denied")) return; // read-only in effect for an ordinary user
    expect(written).toBe("No space left\n");
    expect(await output(own, `du -sk ${folder}/big | cut -f1`)).toMatch(/^1[56]\d\d\d\n$/);
    expect(await own.limitEvents()).toEqual({ ...NONE, disk: 1 });
    expect(await output(own, `rm ${folder}/big; echo x > /work/y; cat /work/y`)).toBe("x\n");
  });

  test("a full disk that is emptied within the command is noticed, too", async () => {
    await using own = await fresh();
    await own.run("dd if=/dev/zero of=/work/big bs=64k count=2000 2>/dev/null; sleep 0.3; rm /work/big", LIMITS);
    expect((await own.limitEvents()).disk).toBe(1);
  });

  test("inode filler", async () => {
    await using own = await fresh();
    const said = await output(own, "mkdir i; cd i; seq 100000 | xargs touch 2>&1 | head -1");
    expect(said).toContain("No space left on device");
    expect((await own.limitEvents()).disk).toBe(1);
  });

  test("sleeping for ever", async () => {
    await using own = await fresh();
    expect(await own.run("sleep infinity", { ...LIMITS, timeoutMs: 200 })).toMatchObject({ status: "timeout" });
    expect(await own.limitEvents()).toEqual(NONE);
  });

  test("output without end, to the reader and to a file", async () => {
    await using own = await fresh();
    expect(await own.run("cat /dev/zero", { ...LIMITS, maxOutputBytes: 64 })).toMatchObject({ status: "output_limit" });
    await own.run("yes > /work/out 2>/dev/null", LIMITS);
    expect((await own.limitEvents()).disk).toBe(1);
  });

  test("large files, deep folders and long names do not hurt", async () => {
    await using own = await fresh(ROOMY);
    await own.run(
      "truncate -s 4E huge; p=.; for i in $(seq 300); do p=$p/dddddddddd; mkdir -p $p 2>/dev/null; done",
      LIMITS,
    );
    expect(await output(own, "ls -s huge | cut -d' ' -f1")).toBe("0\n");
  });

  test("a neighbour is not affected", async () => {
    await using neighbour = await fresh(ROOMY);
    await using own = await fresh();
    const bomb = own.run("b() { b | b & }; b 2>/dev/null; sleep 1", { ...LIMITS, timeoutMs: 2000 });
    expect(await output(neighbour, "for i in $(seq 20); do /bin/true || echo failed; done; echo done")).toBe("done\n");
    await bomb;
    expect(await neighbour.limitEvents()).toEqual(NONE);
  });

  if (cgroups === "auto")
    test("cpu", async () => {
      if (!hard) return console.log("skipped: without control groups, cpu is not limited");
      await using slow = await fresh({ ...ENVIRONMENT, cpus: 0.2 });
      const burn = "timeout 1 sh -c 'while :; do :; done'; awk '{print $14+$15+$16+$17}' /proc/$$/stat";
      // 1 s of wall clock at a fifth of a core, in hundredths of a second.
      expect(Number(await output(slow, burn))).toBeLessThan(45);
    });
});
