/** The persistent shell: state, exit codes, output, time-outs, death. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { ENVIRONMENT, LIMITS, openProvider, outcome, output, type TestProvider, text } from "./support.ts";

let provider: TestProvider;
let sandbox: NativeSandbox;
beforeAll(async () => {
  provider = await openProvider();
  sandbox = await provider.create(ENVIRONMENT);
});
afterAll(() => provider?.close());

test("directory, variables, functions and options carry over", async () => {
  expect(await outcome(sandbox, "cd /tmp; X='a b'; export Y=2; f() { echo f $1; }; declare -A m; m[k]=v")).toEqual([
    0,
    "",
  ]);
  expect(await outcome(sandbox, 'pwd; echo "$X $Y ${m[k]}"; f 3')).toEqual([0, "/tmp\na b 2 v\nf 3\n"]);
  await sandbox.run("cd /work", LIMITS);
});

test.each([
  ["true", 0, ""],
  ["false", 1, ""],
  ["(exit 77)", 77, ""],
  ["sh -c 'kill -9 $$'", 137, ""],
  ["sh -c 'kill -TERM $$'", 143, ""],
  ["nonesuch", 127, "bash: nonesuch: command not found\n"],
  ["/etc", 126, "bash: /etc: Is a directory\n"],
  ["echo one\nnonesuch\necho two", 0, "one\nbash: nonesuch: command not found\ntwo\n"],
  ["echo 'open", 2, "bash: unexpected EOF while looking for matching `''\n"],
  ["if then", 2, "bash: syntax error near unexpected token `then'\n"],
  ["cat <<EOF\nhere $((1+1))\nEOF", 0, "here 2\n"],
  ["echo out; echo err >&2; echo out", 0, "out\nerr\nout\n"],
  ["cat", 0, ""],
  ['read x; echo "[$x] $?"', 0, "[] 1\n"],
  ["break; continue; echo on", 0, expect.stringMatching(/^bash: break: .*\nbash: continue: .*\non\n$/)],
  ["echo ${nope:?gone}", 1, "bash: nope: gone\n"],
  ["exec nonesuch", 127, "bash: exec: nonesuch: not found\n"],
  ["echo 'it'\\''s' \"q\" $'\\x41' \\\\", 0, "it's q A \\\n"],
  ["echo \u00e4\u6f22", 0, "\u00e4\u6f22\n"],
])("%j", async (command, code, expected) => {
  for (let round = 0; round < 2; round++) expect(await outcome(sandbox, command)).toEqual([code, expected]);
});

test("$? of the last command is seen by the next", async () => {
  for (const code of [0, 1, 3, 127]) {
    await sandbox.run(`(exit ${code})`, LIMITS);
    expect(await output(sandbox, "echo $?")).toBe(`${code}\n`);
  }
});

test("a clean environment, nothing of ours in reach", async () => {
  const fresh = await provider.create(ENVIRONMENT);
  expect((await output(fresh, "env | grep -v ^_= | sort")).trimEnd().split("\n")).toEqual([
    "HOME=/root",
    "LANG=C.UTF-8",
    "LC_ALL=C",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PWD=/work",
    "SHLVL=1",
    "TERM=dumb",
  ]);
  // Descriptors of a command: stdin, stdout, stderr, and the one `ls` opens itself.
  expect(await output(fresh, "ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0")).toBe("0 1 2 3 /dev/null\n");
  await fresh.destroy();
});

test("tracing and prompts stay out of the output", async () => {
  await sandbox.run("set -x; PS1='prompt> '", LIMITS);
  expect(await output(sandbox, "echo traced")).toBe("++ echo traced\ntraced\n");
  await sandbox.run("set +x", LIMITS);
  expect(await output(sandbox, "echo quiet")).toBe("quiet\n");
});

test("errexit ends the shell, as it would anywhere; the next command has a new one", async () => {
  const own = await provider.create(ENVIRONMENT);
  expect((await own.run("set -e; false; echo no", LIMITS)).status).toBe("shell_died");
  expect(await outcome(own, "echo $-; pwd")).toEqual([0, expect.stringMatching(/^[^e]*\n\/work\n$/)]);
  await own.destroy();
});

describe("output", () => {
  test("both ends are kept", async () => {
    const result = await sandbox.run("seq 1 10000", { timeoutMs: 20_000, maxOutputBytes: 1000 });
    const shown = text(result.output);
    expect(result).toMatchObject({ status: "exited", exitCode: 0, truncated: true, outputBytes: 48894 });
    expect(shown).toStartWith("1\n2\n3\n");
    expect(shown).toEndWith("9999\n10000\n");
    expect(shown).toContain("\n[... 47894 bytes omitted ...]\n");
    expect(result.output.length).toBe(1000 + "\n[... 47894 bytes omitted ...]\n".length);
  });

  test.each([0, 1, 99, 100, 101, 150, 199, 200, 201, 300])("%d bytes under a cap of 100", async (count) => {
    const all = Array.from({ length: count }, (_, i) => String.fromCharCode(97 + (i % 26))).join("");
    const result = await sandbox.run(`printf %s '${all}'`, { timeoutMs: 20_000, maxOutputBytes: 100 });
    const gap = `\n[... ${count - 100} bytes omitted ...]\n`;
    expect(text(result.output)).toBe(count <= 100 ? all : all.slice(0, 50) + gap + all.slice(-50));
    expect(result.outputBytes).toBe(count);
  });

  test("a flood is stopped, and the shell lives on", async () => {
    await sandbox.run("cd /tmp; K=kept", LIMITS);
    const result = await sandbox.run("yes", { timeoutMs: 20_000, maxOutputBytes: 1000 });
    expect(result.status).toBe("output_limit");
    expect(result.exitCode).toBeNull();
    expect(result.outputBytes).toBeGreaterThan(64_000);
    expect(await output(sandbox, "echo $K")).toBe("kept\n");
  });

  test("binary output is untouched", async () => {
    const result = await sandbox.run("printf '\\x00\\xff\\x1b[31m\\n'", LIMITS);
    expect([...result.output]).toEqual([0, 255, 27, 91, 51, 49, 109, 10]);
  });

  test("what the background writes later belongs to no command", async () => {
    await sandbox.run("(sleep 0.2; echo late) &", LIMITS);
    await Bun.sleep(500);
    expect(await output(sandbox, "echo now")).toBe("now\n");
  });
});

describe("time-outs", () => {
  const short = { timeoutMs: 300, maxOutputBytes: 1000 };

  test.each([
    "sleep 60",
    "while :; do :; done",
    "while true; do sleep 30; done",
    "sleep 60; echo not-reached; sleep 60",
    "sleep 60 && echo not-reached; (sleep 60); echo not-reached",
    "for i in 1 2 3; do bash -c 'sleep 60'; done",
    "x=$(sleep 60); echo not-reached",
    "sleep 60 & wait; sleep 60",
    "read -t 60 x < <(sleep 60)",
    "trap '' INT TERM; sleep 60",
    "f() { sleep 60; }; f; f; f",
    "sleep 60 | cat",
    "(setsid sleep 60; :)",
    "cat /dev/zero > /dev/null",
  ])("%s ends, and the shell keeps its state", async (command) => {
    await sandbox.run("cd /tmp; K=kept", LIMITS);
    const result = await sandbox.run(command, short);
    expect(result).toMatchObject({ status: "timeout", exitCode: null });
    expect(result.ms).toBeGreaterThanOrEqual(300);
    expect(text(result.output)).not.toContain("not-reached");
    expect(await output(sandbox, "echo $K; pwd; sleep 0.1; pgrep -c sleep")).toBe("kept\n/tmp\n0\n");
  });

  test("services of earlier commands survive", async () => {
    const own = await provider.create(ENVIRONMENT);
    await own.run("sleep 61 & sleep 0.1", LIMITS);
    await own.run("sleep 60", short);
    expect(await output(own, "pgrep -c sleep")).toBe("1\n");
    await own.destroy();
  });

  test("a shell that will not stop is replaced, and the output says so", async () => {
    const own = await provider.create(ENVIRONMENT);
    const result = await own.run("K=kept; trap '' INT; while :; do :; done", short);
    expect(result.status).toBe("timeout");
    expect(text(result.output)).toContain("[the shell did not stop and was restarted");
    expect(await output(own, 'echo "[$K]"')).toBe("[]\n");
    await own.destroy();
  });

  test("a cancelled command ends", async () => {
    const own = await provider.create(ENVIRONMENT);
    const abort = new AbortController();
    const running = own.run("sleep 60", { ...LIMITS, signal: abort.signal });
    setTimeout(() => abort.abort(), 100);
    await expect(running).rejects.toMatchObject({ code: "interrupted" });
    await running.catch(() => {});
    expect(await output(own, "sleep 0.1; pgrep -c sleep; echo on")).toBe("0\non\n");
    await own.destroy();
  });
});

describe("death of the shell", () => {
  test.each([
    ["exit 7", 7],
    ["exec true", 0],
    ["kill -9 $$", 137],
    ["kill -9 $$; sleep 5", 137],
  ])("%s", async (command, code) => {
    const own = await provider.create(ENVIRONMENT);
    await own.run("K=kept", LIMITS);
    expect(await own.run(command, LIMITS)).toMatchObject({ status: "shell_died", exitCode: code });
    expect(await outcome(own, 'echo "[$K]"; pwd')).toEqual([0, "[]\n/work\n"]);
    await own.destroy();
  });

  test("between commands, it is told with the next one", async () => {
    const own = await provider.create(ENVIRONMENT);
    await own.run("(sleep 0.1; kill -9 $$) &", LIMITS);
    await Bun.sleep(400);
    const result = await own.run("echo on", LIMITS);
    expect(text(result.output)).toStartWith("on\n");
    expect(text(result.output)).toContain("[the shell had ended and was restarted");
    expect(await output(own, "echo on")).toBe("on\n");
    await own.destroy();
  });

  test("kill -9 -1 leaves the sandbox usable", async () => {
    const own = await provider.create(ENVIRONMENT);
    await own.run("kill -9 -1", LIMITS);
    expect(await output(own, "echo on")).toContain("on\n");
    await own.destroy();
  });

  test("a syntax error does not disturb what follows", async () => {
    for (let round = 0; round < 5; round++) {
      await sandbox.run('echo "', LIMITS);
      expect(await outcome(sandbox, "echo fine")).toEqual([0, "fine\n"]);
    }
  });
});

test("long commands arrive whole", async () => {
  const long = "x".repeat(200_000);
  expect(await output(sandbox, `v='${long}'; echo \${#v}`)).toBe("200000\n");
});

test("two commands at once are refused", async () => {
  const first = sandbox.run("sleep 0.5", LIMITS);
  await expect(sandbox.run("echo", LIMITS)).rejects.toThrow("still running a command");
  await first;
});

describe("exec", () => {
  const options = { ...LIMITS, cwd: "/tmp" };
  test("runs a program in a folder, outside the shell", async () => {
    const result = await sandbox.exec(["sh", "-c", "pwd; echo $0 $1; exit 5", "a b", "c"], options);
    expect([result.exitCode, text(result.output)]).toEqual([5, "/tmp\na b c\n"]);
  });
  test("a program that is not there", async () => {
    await expect(sandbox.exec(["nonesuch"], options)).rejects.toThrow("there is no program nonesuch");
  });
  test("time-out and flood", async () => {
    expect(await sandbox.exec(["sleep", "60"], { ...options, timeoutMs: 200 })).toMatchObject({ status: "timeout" });
    expect(await sandbox.exec(["yes"], { ...options, maxOutputBytes: 100 })).toMatchObject({ status: "output_limit" });
  });
  test("does not wait for what it left in the background", async () => {
    const result = await sandbox.exec(["sh", "-c", "sleep 60 & echo started"], options);
    expect(text(result.output)).toBe("started\n");
    expect(result.ms).toBeLessThan(10_000);
  });
  test("many at once", async () => {
    const all = await Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((n) => sandbox.exec(["echo", String(n)], options)));
    expect(all.map((result) => text(result.output).trim())).toEqual(["1", "2", "3", "4", "5", "6", "7", "8"]);
  });
});

test("observations are the same in every sandbox", async () => {
  const commands = [
    "foo",
    "ls -la nothing",
    "echo $$",
    "sleep 0 & echo $!",
    "cat /proc/self/stat | cut -d' ' -f1",
    "(exit 9)",
    "echo $$ $?",
  ];
  const transcript = async () => {
    const own = await provider.create(ENVIRONMENT);
    const lines: unknown[] = [];
    for (const command of commands) lines.push(await outcome(own, command));
    await own.destroy();
    return lines;
  };
  expect(await transcript()).toEqual(await transcript());
});
