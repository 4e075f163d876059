/** Named shells, terminals, one-shot programs with input, and files: what the service offers beyond an episode's needs. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { NamedShell, type ShellResult, ShellSyntaxError } from "../../src/sandbox/shells.ts";
import { SandboxTerminal } from "../../src/sandbox/terminals.ts";
import { ENVIRONMENT, LIMITS, manyUsers, openProvider, type TestProvider, text, until } from "./support.ts";

let provider: TestProvider;
let sandbox: NativeSandbox;
let shell: NamedShell;
beforeAll(async () => {
  provider = await openProvider();
  sandbox = await provider.createBare({ ...ENVIRONMENT, pids: 64 });
  shell = await NamedShell.open(sandbox, 1, "one", { cwd: "/work" });
});
afterAll(() => provider?.close());

const CHECKED = { ...LIMITS, checkSyntax: true };
const shown = (result: ShellResult): [number | null, string] => [result.exitCode, text(result.output)];

describe("named shells", () => {
  test("each has its own folder and variables", async () => {
    const other = await NamedShell.open(sandbox, 2, "two", { cwd: "/tmp", env: { GREETING: "hello you" } });
    await shell.run("cd /etc; X=1", LIMITS);
    expect(shown(await other.run('pwd; echo "[$X] $GREETING"; X=2', LIMITS))).toEqual([0, "/tmp\n[] hello you\n"]);
    expect(shown(await shell.run('pwd; echo "[$X] [$GREETING]"', LIMITS))).toEqual([0, "/etc\n[1] []\n"]);
    await shell.run("cd /work", LIMITS);
    await other.close();
    await expect(other.run("true", LIMITS)).rejects.toThrow(/not open|still running|no shell/);
  });

  test.each([
    ["a here-document", "cat <<'END'\na $b\n  c\nEND", 0, "a $b\n  c\n"],
    ["a function over several lines", "f() {\n  local x=$1\n  echo $((x * 2))\n}\nf 21", 0, "42\n"],
    [
      "a background job",
      "sleep 0.1 & echo started; wait; echo done",
      0,
      expect.stringMatching(/^\[1\] \d+\nstarted\ndone\n$/),
    ],
    ["an exit code in a subshell", "(set -e; false; echo no)", 1, ""],
    ["what looks like a prompt", "echo 'SHELLPS1PREFIX$ bash-5.2# '", 0, "SHELLPS1PREFIX$ bash-5.2# \n"],
    ["what looks like an exit code", "echo EXITCODESTART7EXITCODEEND; false", 1, "EXITCODESTART7EXITCODEEND\n"],
    ["unicode", "printf '%s' 'äöü 漢字 🙂' | wc -m", 0, expect.stringMatching(/^\d+\n$/)],
    ["a program that reads input gets its end", "cat; read x || echo none", 0, "none\n"],
    ["both streams in order", "echo 1; echo 2 >&2; echo 3", 0, "1\n2\n3\n"],
    [
      "nohup and disown",
      "nohup sleep 0 < /dev/null > /tmp/n 2>&1 & echo PID${!}END;disown",
      0,
      expect.stringMatching(/^\[1\] (\d+)\nPID\1END\n$/),
    ],
  ])("%s", async (_name, command, code, output) => {
    expect(shown(await shell.run(command, CHECKED))).toEqual([code, output]);
  });

  test("binary output is untouched, large output keeps both ends", async () => {
    const binary = await shell.run("printf '\\x00\\xff\\x1b[31m'", LIMITS);
    expect([...binary.output]).toEqual([0, 255, 27, 91, 51, 49, 109]);
    const large = await shell.run("seq 1 20000", { timeoutMs: 20_000, maxOutputBytes: 2000 });
    expect(large).toMatchObject({ truncated: true, outputBytes: 108_894 });
    expect(text(large.output)).toMatch(/^1\n2\n[\s\S]*bytes omitted[\s\S]*19999\n20000\n$/);
  });

  test("syntax errors are told before anything runs", async () => {
    const wrong = shell.run("touch /tmp/ran\nif then", CHECKED);
    await expect(wrong).rejects.toBeInstanceOf(ShellSyntaxError);
    await expect(wrong).rejects.toThrow("line 2: syntax error near unexpected token `then'");
    expect(shown(await shell.run("ls /tmp/ran 2>/dev/null; shopt -s extglob; echo fine", CHECKED))).toEqual([
      0,
      "fine\n",
    ]);
    expect((await shell.run("ls !(x) >/dev/null; shopt -u extglob", CHECKED)).exitCode).toBe(0);
  });

  test("interrupt is Ctrl-C: the command ends with 130, the shell goes on, others are not touched", async () => {
    const other = await NamedShell.open(sandbox, 2, "two", { cwd: "/" });
    const bystander = other.run("sleep 0.6; echo finished", LIMITS);
    await shell.run("K=kept; sleep 61 &", LIMITS);
    const running = shell.run("sleep 60; echo not-reached", LIMITS);
    await Bun.sleep(150);
    expect(await shell.interrupt()).toBe(true);
    expect(shown(await running)).toEqual([130, ""]);
    expect(
      shown(await shell.run("echo $K; pgrep -f 'sleep 61' >/dev/null && echo background lives; kill %1", LIMITS))[1],
    ).toContain("kept\nbackground lives\n");
    expect(await shell.interrupt()).toBe(false);
    expect(shown(await bystander)).toEqual([0, "finished\n"]);
    await other.close();
  });

  test("a program that heeds SIGINT may finish its work", async () => {
    const running = shell.run(`bash -c 'trap "echo cleaning; exit 3" INT; while :; do sleep 0.05; done'`, LIMITS);
    await Bun.sleep(200);
    await shell.interrupt();
    const [code, output] = shown(await running);
    expect(output).toContain("cleaning\n");
    expect([3, 130]).toContain(code as number);
  });

  test("a time limit ends the job in front and nothing of another shell", async () => {
    const other = await NamedShell.open(sandbox, 2, "two", { cwd: "/" });
    await other.run("K=other", LIMITS);
    const bystander = other.run("sleep 1; echo finished", LIMITS);
    await shell.run("K=kept; cd /tmp", LIMITS);
    const late = await shell.run("trap '' INT; sleep 62 & sleep 60", { ...LIMITS, timeoutMs: 200 });
    expect(late).toMatchObject({ status: "timeout", exitCode: null });
    expect(shown(await bystander)).toEqual([0, "finished\n"]);
    expect(shown(await other.run("echo $K", LIMITS))).toEqual([0, "other\n"]);
    expect(shown(await shell.run("pgrep -f 'sleep 6[02]' || echo gone", LIMITS))[1]).toBe("gone\n");
    await shell.run("trap - INT; cd /work", LIMITS);
    await other.close();
  });

  test("a command that was given up does not keep the next one waiting for long", async () => {
    const abort = new AbortController();
    const given = shell.run("trap '' INT; sleep 60", { ...LIMITS, signal: abort.signal });
    await Bun.sleep(100);
    await expect(shell.run("echo no", LIMITS)).rejects.toThrow("still running");
    abort.abort();
    const next = shell.run("echo next", LIMITS);
    await expect(given).rejects.toMatchObject({ code: "interrupted" });
    expect(shown(await next)).toEqual([0, "next\n"]);
    await shell.run("trap - INT", LIMITS);
  });

  test("set -e and exit end the shell, which is told, and started again as it was opened", async () => {
    const own = await NamedShell.open(sandbox, 3, "three", { cwd: "/tmp", env: { E: "1" } });
    for (const command of ["set -e; false; echo no", "exit 7"]) {
      expect((await own.run(command, LIMITS)).status).toBe("shell_died");
      expect(shown(await own.run('pwd; echo "$E"', LIMITS))).toEqual([0, "/tmp\n1\n"]);
    }
    await own.run("(sleep 0.1; kill -9 $$) &", LIMITS);
    await Bun.sleep(400);
    expect((await own.run("echo on", LIMITS)).restarted).toBe(true);
    await own.close();
  });

  test.skipIf(!manyUsers)("another user has that user's rights and home", async () => {
    await sandbox.exec(["sh", "-c", "echo 'ann:x:1000:1000::/home/ann:/bin/sh' >> /etc/passwd; mkdir -p /home/ann"], {
      ...LIMITS,
      cwd: "/",
    });
    const own = await NamedShell.open(sandbox, 4, "ann", { cwd: "/tmp", user: "ann" });
    expect(shown(await own.run("id -u; echo $HOME $USER; touch /etc/x 2>/dev/null || echo denied", LIMITS))).toEqual([
      0,
      "1000\n/home/ann ann\ndenied\n",
    ]);
    await own.close();
    const refused = NamedShell.open(sandbox, 4, "bob", { cwd: "/tmp", user: "bob" });
    await expect(refused).rejects.toThrow("there is no user bob in the sandbox");
  });

  test.skipIf(manyUsers)("where only root exists, another user is an error", async () => {
    await expect(NamedShell.open(sandbox, 4, "n", { cwd: "/", user: "nobody" })).rejects.toThrow("has one user");
  });
});

describe("interactive programs", () => {
  const expectPrompt = { ...LIMITS, interactive: true, expect: [/>>> $/] };
  test("lines go to the program in front until it ends", async () => {
    const own = await NamedShell.open(sandbox, 5, "python", { cwd: "/work", env: { NAME: "ale" } });
    const start = await own.run(
      'bash --norc -c \'while printf ">>> "; read -r line; do [ "$line" = quit ] && exit 4; eval "$line"; done\'',
      expectPrompt,
    );
    expect(start).toMatchObject({ matched: ">>> ", exitCode: null });
    expect(text((await own.run("echo $((6 * 7)) $NAME; tty -s && echo terminal", expectPrompt)).output)).toBe(
      "42 ale\nterminal\n",
    );
    await expect(own.run("echo no", LIMITS)).rejects.toThrow("still running");
    expect(shown(await own.run("quit", { ...LIMITS, interactive: true }))).toEqual([4, ""]);
    expect(shown(await own.run("echo back $?", LIMITS))).toEqual([0, "back 4\n"]);
    await own.close();
  });

  test("a time limit ends the program in front", async () => {
    const own = await NamedShell.open(sandbox, 5, "late", { cwd: "/work" });
    const result = await own.run("echo waiting; cat", { ...LIMITS, timeoutMs: 400, interactive: true });
    expect(result).toMatchObject({ status: "timeout", exitCode: null, matched: undefined });
    expect(text(result.output)).toBe("waiting\n");
    expect(shown(await own.run("echo usable", LIMITS))).toEqual([0, "usable\n"]);
    await own.close();
  });

  test("a program that waits in front can be interrupted", async () => {
    const own = await NamedShell.open(sandbox, 5, "stuck", { cwd: "/work" });
    const started = await own.run("echo 'ready>'; sleep 60", { ...LIMITS, interactive: true, expect: [/ready>/] });
    expect(started.matched).toBe("ready>");
    await own.interrupt();
    await until("the shell is free", 5000, () => !own.busy);
    expect(shown(await own.run("echo free", LIMITS))).toEqual([0, "free\n"]);
    await own.close();
  });
});

describe("terminals", () => {
  /** Reads until the text holds `wanted`. */
  async function readUntil(terminal: SandboxTerminal, wanted: RegExp): Promise<string> {
    let all = "";
    await until(`${wanted} on the terminal`, 10_000, async () => {
      all += text((await terminal.read(500)).output);
      return wanted.test(all);
    });
    return all;
  }

  test("a shell with a controlling terminal: size, Ctrl-C, exit code", async () => {
    const options = { argv: ["bash", "--norc", "-i"], cwd: "/tmp", rows: 30, columns: 100, env: { PS1: "$ " } };
    const terminal = await SandboxTerminal.open(sandbox, options);
    const type = (line: string) => terminal.write(new TextEncoder().encode(line));
    await type("stty size; pwd\n");
    expect(await readUntil(terminal, /\/tmp\r\n/)).toContain("30 100\r\n");
    await terminal.resize(40, 120);
    await type("stty size\n");
    await readUntil(terminal, /40 120\r\n/);
    await type("sleep 60\n");
    await Bun.sleep(200);
    await type("\x03");
    await type("echo after $?\n");
    await readUntil(terminal, /after 130/);
    await type("exit 5\n");
    let last = await terminal.read(2000);
    while (!last.ended) last = await terminal.read(2000);
    expect(last.exitCode).toBe(5);
    await terminal.close();
    await expect(terminal.read(0)).rejects.toThrow("is closed");
  });

  test("closing ends what runs on it; a flood waits to be read", async () => {
    const flood = await SandboxTerminal.open(sandbox, { argv: ["yes"], cwd: "/", rows: 24, columns: 80 });
    await Bun.sleep(200);
    expect((await flood.read(0)).output.length).toBeLessThanOrEqual(200_000);
    await flood.close();
    const count = async () => text((await sandbox.exec(["pgrep", "-c", "yes"], { ...LIMITS, cwd: "/" })).output);
    await until("the program is gone", 5000, async () => (await count()) === "0\n");
    const missing = SandboxTerminal.open(sandbox, { argv: ["nonesuch"], cwd: "/", rows: 24, columns: 80 });
    await expect(missing).rejects.toThrow("there is no program nonesuch");
  });
});

describe("one-shot programs", () => {
  const options = { ...LIMITS, cwd: "/tmp" };
  test("input, environment and separate streams", async () => {
    const input = new Uint8Array(300_000).map((_, i) => i % 251);
    const counted = await sandbox.execSeparate(["sh", "-c", "wc -c; echo $A >&2"], {
      ...options,
      stdin: input,
      env: { A: "x y" },
    });
    expect([text(counted.output), text(counted.errorOutput), counted.exitCode]).toEqual(["300000\n", "x y\n", 0]);
    const ignored = await sandbox.exec(["true"], { ...options, stdin: input });
    expect(ignored.exitCode).toBe(0);
    const empty = await sandbox.exec(["cat"], { ...options, stdin: new Uint8Array(0) });
    expect(text(empty.output)).toBe("");
    await expect(sandbox.exec(["true"], { ...options, env: { "A=B": "1" } })).rejects.toThrow(
      "no name of an environment",
    );
    await expect(sandbox.exec(["true"], { ...options, cwd: "/nowhere" })).rejects.toThrow("entering /nowhere");
  });

  test("each stream keeps both of its ends", async () => {
    const command = "seq 1 5000; seq 1 5000 >&2";
    const result = await sandbox.execSeparate(["sh", "-c", command], { ...options, maxOutputBytes: 400 });
    for (const stream of [result.output, result.errorOutput])
      expect(text(stream)).toMatch(/^1\n2\n[\s\S]*omitted[\s\S]*5000\n$/);
    expect([result.outputBytes, result.errorOutputBytes]).toEqual([23_893, 23_893]);
  });

  test("a log gets what is not kept, up to its limit", async () => {
    const log = { path: "/tmp/log", maxBytes: 100_000 };
    const result = await sandbox.exec(["sh", "-c", "yes | head -c 300000"], { ...options, maxOutputBytes: 1000, log });
    expect(result).toMatchObject({ status: "exited", exitCode: 0, outputBytes: 300_000, truncated: true });
    expect((await sandbox.readFile("/tmp/log", 200_000))?.length).toBe(100_000);
    await sandbox.exec(["ln", "-sf", "/etc/hostname", "/tmp/log"], options);
    await expect(sandbox.exec(["true"], { ...options, log })).rejects.toThrow("/tmp/log");
  });
});

test("a paused sandbox does nothing, and its time limits stand still", async () => {
  await shell.run("cd /work; (while :; do echo x >> ticks; sleep 0.02; done) & ", LIMITS);
  const running = shell.run("sleep 1; echo slept", { ...LIMITS, timeoutMs: 2500 });
  await Bun.sleep(200);
  const size = async () => (await sandbox.readFile("/work/ticks", 1 << 20))?.length ?? 0;
  const before = await size();
  await sandbox.pause();
  await Bun.sleep(2500);
  expect(await sandbox.statistics()).toHaveProperty("memoryBytes");
  await expect(sandbox.exec(["true"], { ...LIMITS, cwd: "/" })).rejects.toThrow("is paused");
  await expect(size()).rejects.toThrow("is paused");
  await sandbox.resume();
  const after = await size();
  expect(after - before).toBeLessThan(100); // 2.5 s are 250
  expect(shown(await running)).toEqual([0, "slept\n"]);
  await until("the loop goes on", 5000, async () => (await size()) > after);
  await shell.run("kill %1; rm ticks", LIMITS);
});

test("statistics follow what the sandbox does", async () => {
  const own = await provider.createBare(ENVIRONMENT);
  const before = await own.statistics();
  const work =
    "dd if=/dev/zero of=/work/f bs=1M count=4 2>/dev/null; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
  await own.exec(["sh", "-c", work], { ...LIMITS, cwd: "/work" });
  const after = await own.statistics();
  expect((after.diskBytes ?? 0) - (before.diskBytes ?? 0)).toBeGreaterThanOrEqual(4 << 20);
  expect((after.cpuSeconds ?? 0) - (before.cpuSeconds ?? 0)).toBeGreaterThan(0.01);
  expect(after.memoryPeakBytes).toBeGreaterThan(0);
  expect(after).toMatchObject({ processes: 0, memoryKills: 0 });
  expect(after.diskLimitBytes).toBeLessThanOrEqual(ENVIRONMENT.diskBytes);
  if (own.isolation.includes("cgroup")) {
    // Without control groups a single large process meets its rlimit, and nobody has to kill it.
    await own.exec(["sh", "-c", "head -c 200000000 /dev/zero | tail -c 190000000 | wc -c"], {
      ...LIMITS,
      cwd: "/work",
    });
    await until("the kill is counted", 5000, async () => ((await own.statistics()).memoryKills ?? 0) > 0);
  }
  await own.destroy();
});
