/** Pools, endings, and what is left behind: nothing. */

import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { getPriority, tmpdir } from "node:os";
import { join } from "node:path";
import { reapOrphans } from "../../src/sandbox/registry.ts";
import { ENVIRONMENT, LIMITS, openProvider, outcome, output, type TestProvider, until } from "./support.ts";

const opened: TestProvider[] = [];
async function open(options: Parameters<typeof openProvider>[0] = {}): Promise<TestProvider> {
  const provider = await openProvider(options);
  opened.push(provider);
  return provider;
}
afterEach(async () => {
  for (const provider of opened.splice(0)) await provider.close();
});

/** Command lines of all processes that can be seen. */
function processes(): Map<number, string> {
  const found = new Map<number, string>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      found.set(Number(name), readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " "));
    } catch {
      // ended meanwhile
    }
  }
  return found;
}

/** A number for `sleep` that no one else uses, to find the processes of a test by. */
let nextMark = 1_000_000 + process.pid * 100;
const running = (mark: number) => [...processes().values()].filter((line) => line === `sleep ${mark} `).length;
/** Whether a process runs; one that ended and waits to be reaped by its parent does not. */
function isRunning(pid: number): boolean {
  try {
    return !/^State:\t[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}
const cgroupsOf = (provider: TestProvider): string[] => {
  const [folder] = readdirSync(provider.stateDir);
  if (folder === undefined) throw new Error("no launcher is recorded");
  return JSON.parse(readFileSync(join(provider.stateDir, folder, "record.json"), "utf8")).cgroups;
};
const childGroups = (paths: readonly string[]) =>
  paths.flatMap((path) => (existsSync(path) ? readdirSync(path).filter((name) => /^s\d+$/.test(name)) : []));

describe("destroy", () => {
  test("ends everything, daemons and stubborn ones too, and removes the groups", async () => {
    const provider = await open();
    const mark = nextMark++;
    const sandbox = await provider.create(ENVIRONMENT);
    await sandbox.run(`setsid nohup sleep ${mark} >/dev/null 2>&1 &`, LIMITS);
    await sandbox.run(`(setsid sh -c 'trap "" TERM HUP INT; sleep ${mark}; sleep ${mark}' &)`, LIMITS);
    await until("the daemons", 5000, () => running(mark) === 2);
    const groups = cgroupsOf(provider);
    if (provider.isolation.includes("cgroup")) expect(childGroups(groups).length).toBeGreaterThan(0);
    await sandbox.destroy();
    await sandbox.destroy();
    expect(running(mark)).toBe(0);
    expect(childGroups(groups)).toEqual([]);
    await expect(sandbox.run("true", LIMITS)).rejects.toThrow("is destroyed");
    await expect(sandbox.limitEvents()).rejects.toThrow("is destroyed");
  });

  test("while a command runs", async () => {
    const provider = await open();
    const sandbox = await provider.create(ENVIRONMENT);
    const command = sandbox.run("sleep 60", LIMITS);
    command.catch(() => {});
    await Bun.sleep(50);
    await sandbox.destroy();
    await expect(command).rejects.toMatchObject({ code: "sandbox" });
  });

  test("of many, while others are being made", async () => {
    const provider = await open();
    const all = await Promise.all(
      Array.from({ length: 24 }, async (_, index) => {
        const sandbox = await provider.create(ENVIRONMENT);
        expect(await output(sandbox, `echo ${index}`)).toBe(`${index}\n`);
        await sandbox.destroy();
        return sandbox.id;
      }),
    );
    expect(new Set(all).size).toBe(24);
    expect(childGroups(cgroupsOf(provider))).toEqual([]);
  });
});

describe("killAll", () => {
  test("ends every process but init; the sandbox goes on with a new shell", async () => {
    const provider = await open();
    const mark = nextMark++;
    const sandbox = await provider.create(ENVIRONMENT);
    await sandbox.run(`echo kept > /work/f; K=lost; setsid sleep ${mark} & (trap '' TERM; sleep ${mark}) &`, LIMITS);
    await sandbox.killAll();
    expect(running(mark)).toBe(0);
    expect(await outcome(sandbox, 'cat /work/f; echo "[$K]"')).toEqual([0, "kept\n[]\n"]);
  });

  test("a loop that rewrites a file has stopped when it returns", async () => {
    const provider = await open();
    const sandbox = await provider.create(ENVIRONMENT);
    await sandbox.run(
      "(while :; do echo 1 > /work/reward; done) & (while :; do (while :; do echo 1 > /work/reward; done) & sleep 0.01; done) &",
      LIMITS,
    );
    await Bun.sleep(200);
    await sandbox.killAll();
    await sandbox.exec(["sh", "-c", "echo 0 > /work/reward"], { ...LIMITS, cwd: "/" });
    for (let round = 0; round < 5; round++) {
      expect(new TextDecoder().decode((await sandbox.readFile("/work/reward", 10)) ?? undefined)).toBe("0\n");
      await Bun.sleep(10);
    }
  });

  test("a running command is told", async () => {
    const provider = await open();
    const sandbox = await provider.create(ENVIRONMENT);
    const command = sandbox.run("sleep 60", LIMITS);
    const program = sandbox.exec(["sleep", "60"], { ...LIMITS, cwd: "/" });
    await Bun.sleep(50);
    await sandbox.killAll();
    expect((await command).status).toBe("shell_died");
    expect((await program).exitCode).toBe(137);
  });
});

describe("warm pool", () => {
  test("hands out ready sandboxes and makes new ones", async () => {
    const provider = await open();
    provider.warm(ENVIRONMENT, 4);
    await until("four warm sandboxes", 20_000, () => provider.warmCount === 4);
    const taken = await Promise.all([1, 2, 3].map(() => provider.create(ENVIRONMENT)));
    expect(new Set(taken.map((sandbox) => sandbox.id)).size).toBe(3);
    for (const sandbox of taken)
      expect(await output(sandbox, "ls -A /work /tmp; pwd; echo $$")).toBe("/tmp:\n\n/work:\n/work\n2\n");
    await until("four warm sandboxes again", 20_000, () => provider.warmCount === 4);
  });

  test("shrinks, and fills again after the launcher was killed", async () => {
    const provider = await open();
    provider.warm(ENVIRONMENT, 3);
    await until("three warm sandboxes", 20_000, () => provider.warmCount === 3);
    provider.warm(ENVIRONMENT, 1);
    expect(provider.warmCount).toBe(1);
    const killed = provider.launcherPid;
    process.kill(killed, "SIGKILL");
    await until(
      "a new launcher's warm sandbox",
      20_000,
      () => provider.launcherPid !== killed && provider.warmCount === 1,
    );
    expect(await output(await provider.create(ENVIRONMENT), "echo on")).toBe("on\n");
  });

  test("environments do not share sandboxes", async () => {
    const provider = await open();
    provider.warm(ENVIRONMENT, 1);
    await until("a warm sandbox", 20_000, () => provider.warmCount === 1);
    const other = await provider.create({ ...ENVIRONMENT, workdir: "/elsewhere" });
    expect(await output(other, "pwd")).toBe("/elsewhere\n");
    expect(provider.warmCount).toBe(1);
  });
});

describe("errors name the thing", () => {
  test.each([
    [{ workdir: "work" }, "workdir must be an absolute folder"],
    [{ workdir: "/work/../etc" }, "workdir must be an absolute folder"],
    [{ memoryBytes: 1000 }, "memory_mb is too small"],
    [{ diskBytes: 0 }, "storage_mb is too small"],
    [{ pids: 1 }, "pids is too small"],
    [{ profile: "nonesuch" }, 'no sandbox profile "nonesuch"; known: '],
  ])("%j", async (change, message) => {
    const provider = await open();
    await expect(provider.create({ ...ENVIRONMENT, ...change })).rejects.toThrow(message);
    expect(await output(await provider.create(ENVIRONMENT), "echo on")).toBe("on\n");
  });

  test("a closed provider", async () => {
    const provider = await open();
    const sandbox = await provider.create(ENVIRONMENT);
    await provider.close();
    await expect(provider.create(ENVIRONMENT)).rejects.toThrow("provider is closed");
    await expect(sandbox.run("true", LIMITS)).rejects.toMatchObject({ code: "sandbox" });
    await sandbox.destroy();
  });

  test("a state folder that cannot be made", async () => {
    const { createSandboxProvider } = await import("../../src/sandbox/supervisor.ts");
    const promise = createSandboxProvider({ maskPaths: [], stateDir: "/proc/nonesuch" });
    await expect(promise).rejects.toThrow("/proc/nonesuch cannot be written");
  });
});

describe("control goes first", () => {
  test("all sandboxes together weigh as much as one process five steps nicer than control", async () => {
    const provider = await open();
    const weight = (path: string, name: string) =>
      existsSync(join(path, name)) ? [Number(readFileSync(join(path, name), "utf8"))] : [];
    const nice = Math.min(19, getPriority() + 5);
    const weights = cgroupsOf(provider).flatMap((path) => weight(path, "cpu.weight.nice"));
    for (const niceness of weights) expect(niceness).toBe(nice);
    const shares = cgroupsOf(provider).flatMap((path) => weight(path, "cpu.shares"));
    // of whole numbers, each rounded down
    for (const share of shares) expect(Math.abs(share / (1024 * 0.8 ** nice) - 1)).toBeLessThan(0.2);
    expect(weights.length + shares.length).toBe(provider.isolation.includes("cgroup") ? 1 : 0);
  });
});

describe("sudden ends", () => {
  test("the launcher is killed: its sandboxes end, the next one has a new launcher", async () => {
    const provider = await open();
    const mark = nextMark++;
    const sandbox = await provider.create(ENVIRONMENT);
    await sandbox.run(`setsid sleep ${mark} &`, LIMITS);
    const command = sandbox.run("sleep 60", LIMITS);
    command.catch(() => {});
    await until("the process", 5000, () => running(mark) === 1);
    const groups = cgroupsOf(provider);
    process.kill(provider.launcherPid, "SIGKILL");
    await expect(command).rejects.toThrow("the sandbox launcher was ended by SIGKILL");
    await until("the end of its processes", 1000, () => running(mark) === 0);
    await expect(sandbox.run("true", LIMITS)).rejects.toMatchObject({ code: "sandbox" });
    await sandbox.destroy();
    expect(await output(await provider.create(ENVIRONMENT), "echo on")).toBe("on\n");
    await until("the removal of its groups", 5000, () => !groups.some((group) => existsSync(group)));
  });

  test("the launcher is killed before it has answered: it is started again, but not for ever", async () => {
    const children = () =>
      readdirSync("/proc/self/task").flatMap((task) =>
        readFileSync(`/proc/self/task/${task}/children`, "utf8").split(" ").filter(Boolean).map(Number),
      );
    const openAndKill = async (times: number) => {
      const known = new Set(children());
      const opening = open();
      opening.catch(() => {});
      for (let killed = 0; killed < times; ) {
        const launcher = children().find((pid) => !known.has(pid));
        if (launcher !== undefined) {
          process.kill(launcher, "SIGKILL");
          known.add(launcher);
          killed++;
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
      return { opening };
    };
    const provider = await (await openAndKill(2)).opening;
    expect(await output(await provider.create(ENVIRONMENT), "echo on")).toBe("on\n");
    const { opening } = await openAndKill(3);
    await expect(opening).rejects.toThrow("the sandbox launcher was ended by SIGKILL");
  });

  test("the control process is killed: within a second nothing runs, and the next start removes the rest", async () => {
    const stateDir = mkdtempSync(join(tmpdir(), "ale-killed-"));
    const mark = nextMark++;
    const script = `
      const { createSandboxProvider } = await import(${JSON.stringify(join(import.meta.dir, "../../src/sandbox/supervisor.ts"))});
      const provider = await createSandboxProvider({ maskPaths: [], stateDir: ${JSON.stringify(stateDir)} });
      for (let i = 0; i < 8; i++) {
        const sandbox = await provider.create(${JSON.stringify(ENVIRONMENT)});
        await sandbox.run("setsid sleep ${mark} & (trap '' TERM; sleep ${mark}) &", { timeoutMs: 20000, maxOutputBytes: 100 });
      }
      console.log(provider.launcherPid);
      setInterval(() => {}, 1000);`;
    // By this name it is there for an ordinary user, too, where Bun itself lies in a folder of root's.
    await using child = Bun.spawn(["/proc/self/exe", "-e", script], { stdout: "pipe", stderr: "inherit" });
    const reader = child.stdout.getReader();
    const { value } = await reader.read();
    const launcher = Number(new TextDecoder().decode(value));
    await until("its processes", 5000, () => running(mark) === 16);
    const [folder] = readdirSync(stateDir);
    const { cgroups } = JSON.parse(readFileSync(join(stateDir, folder ?? "", "record.json"), "utf8"));
    const before = performance.now();
    child.kill("SIGKILL");
    await until("the end of all processes", 1000, () => running(mark) === 0 && !isRunning(launcher));
    expect(performance.now() - before).toBeLessThan(1000);
    await child.exited;
    expect(await reapOrphans(stateDir)).toBe(1);
    expect(readdirSync(stateDir)).toEqual([]);
    for (const group of cgroups) expect(existsSync(group)).toBe(false);
    rmSync(stateDir, { recursive: true });
  });

  test("what a dead launcher left is removed; what belongs to the living stays", async () => {
    const provider = await open();
    const stateDir = mkdtempSync(join(tmpdir(), "ale-orphans-"));
    const groups = cgroupsOf(provider);
    // A process that was, told by a start time that no process has.
    const dead = `ale-${process.pid}-1-1`;
    const left = groups.map((group) => join(group, "..", dead));
    for (const group of left) mkdirSync(join(group, "s1"), { recursive: true });
    mkdirSync(join(stateDir, dead, "stage"), { recursive: true });
    writeFileSync(
      join(stateDir, dead, "record.json"),
      JSON.stringify({ owner: { pid: process.pid, start: "1" }, cgroups: left }),
    );
    mkdirSync(join(stateDir, "not-ours"));
    expect(await reapOrphans(stateDir)).toBe(1);
    expect(readdirSync(stateDir)).toEqual(["not-ours"]);
    for (const group of left) expect(existsSync(group)).toBe(false);
    expect(await reapOrphans(provider.stateDir)).toBe(0);
    expect(await output(await provider.create(ENVIRONMENT), "echo on")).toBe("on\n");
    rmSync(stateDir, { recursive: true });
  });
});

test("no descriptors or processes are lost over many sandboxes", async () => {
  const provider = await open();
  const count = () => ({
    // Readable by root only: the launcher is not dumpable.
    launcher: process.getuid?.() === 0 ? readdirSync(`/proc/${provider.launcherPid}/fd`).length : 0,
    children: [...processes().keys()].filter((pid) => parent(pid) === provider.launcherPid).length,
  });
  const parent = (pid: number) => {
    try {
      return Number(/^PPid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
    } catch {
      return 0;
    }
  };
  const cycle = async () => {
    const sandbox = await provider.create(ENVIRONMENT);
    await sandbox.run("true", LIMITS);
    await sandbox.destroy();
  };
  await cycle();
  const before = count();
  for (let round = 0; round < 50; round++) await cycle();
  expect(count()).toEqual(before);
});
