/**
 * What a shell means by what it is told, beyond `session.test.ts`: everything that people type, and whatever a command does to
 * its own shell. Each in the shell of episodes and in a named one, which are driven in the same way but opened differently.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { CommandOptions, CommandResult } from "../../src/core/ports.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { NamedShell } from "../../src/sandbox/shells.ts";
import { ENVIRONMENT, LIMITS, openProvider, type TestProvider, text } from "./support.ts";

let provider: TestProvider;
beforeAll(async () => {
  provider = await openProvider();
});
afterAll(() => provider?.close());

type Run = (command: string, options?: CommandOptions) => Promise<CommandResult>;

const SHELLS = {
  "the episode's shell": async (sandbox: NativeSandbox): Promise<Run> => {
    return (command, options = LIMITS) => sandbox.run(command, options);
  },
  "a named shell": async (sandbox: NativeSandbox): Promise<Run> => {
    const shell = await NamedShell.open(sandbox, 1, "one", { cwd: "/work" });
    return (command, options = LIMITS) => shell.run(command, options);
  },
};
const SPACIOUS = { ...ENVIRONMENT, memoryBytes: 192 << 20, pids: 48 };

describe.each(Object.entries(SHELLS))("%s", (_name, open) => {
  let sandbox: NativeSandbox;
  let run: Run;
  beforeAll(async () => {
    sandbox = await provider.create(SPACIOUS);
    run = await open(sandbox);
  });
  afterAll(() => sandbox?.destroy());

  const outcome = async (command: string): Promise<[number | null, string]> => {
    const { exitCode, output } = await run(command);
    return [exitCode, text(output)];
  };

  test.each([
    ["nothing", "", 0, ""],
    ["blanks and a comment", "  \n\t# nothing to see\n  ", 0, ""],
    ["a comment at the end", "echo a # not b", 0, "a\n"],
    ["a line that goes on", "echo a \\\n  b", 0, "a b\n"],
    ["a backslash at the end", "echo a\\", 0, expect.stringMatching(/^a\\?\n$/)],
    ["several here-documents", "cat <<A - <<'B'; cat <<-C\nno\nA\n$x\nB\n\ttab\n\tC", 0, "$x\ntab\n"],
    ["a here-document in a function", "f() {\ncat <<E\n$1 'x'\nE\n}\nf \"it's\"", 0, "it's 'x'\n"],
    ["a here-document without an end", "cat <<E\nabc", 0, expect.stringMatching(/abc\n/)],
    ["a here-string", "read -r a b <<< '1 2'; echo $b$a", 0, "21\n"],
    ["process substitution", "cat <(echo a) <(echo b)", 0, "a\nb\n"],
    [
      "a coprocess",
      "coproc C { cat; }; echo hi >&${C[1]}; exec {C[1]}>&-; cat <&${C[0]}; wait",
      0,
      expect.stringContaining("hi\n"),
    ],
    ["a loop with read", "seq 3 | while read -r n; do echo $((n * n)); done", 0, "1\n4\n9\n"],
    ["read from a file", "printf 'a b\\nc\\n' > r; while read -r x y; do echo \"$y|$x\"; done < r", 0, "b|a\n|c\n"],
    ["select without an answer", "select x in a b; do echo $x; done; echo $?", 0, expect.stringContaining("1\n")],
    ["exit in a subshell", "(exit 3); echo $?; x=$(exit 4); echo $?; bash -c 'exit 5'", 5, "3\n4\n"],
    [
      "exit in a pipeline",
      "exit 6 | true; echo ${PIPESTATUS[*]}; set -o pipefail; exit 7 | true; x=$?; set +o pipefail; (exit $x)",
      7,
      "6 0\n",
    ],
    ["return outside of a function", "return 5", 2, expect.stringContaining("return")],
    ["errexit in a subshell", "(set -e; false; echo no); echo $?", 0, "1\n"],
    ["the shell's process id is its own", "[ $$ = $BASHPID ] && sh -c '[ $PPID != 1 ] && echo child'", 0, "child\n"],
    ["SIGTERM, which interactive shells ignore", "kill $$; echo alive", 0, "alive\n"],
    ["a trap", "trap 'echo caught' USR1; kill -USR1 $$; trap - USR1", 0, "caught\n"],
    ["traps of every command", "trap 'echo D' DEBUG; true; trap - DEBUG", 0, "D\nD\n"],
    ["carriage returns are kept", "printf '%s' 'a\r\nb' | od -An -c | tr -d ' '", 0, "a\\r\\nb\n"],
    ["unicode in names", "mkdir -p 'наб ор/漢字🙂'; cd 'наб ор/漢字🙂'; echo é > 'ß'; cat *; cd /work", 0, "é\n"],
    ["bytes that are no unicode", "printf '\\xff\\xfe' | wc -c", 0, "2\n"],
    ["expansion to many words", "echo {1..50000} | wc -w", 0, "50000\n"],
    ["many arguments", "/bin/echo $(seq 20000) | wc -w", 0, "20000\n"],
    ["a time measurement", "TIMEFORMAT=%0R; time true", 0, "0\n"],
    [
      "arithmetic that fails",
      "echo $((1 / 0)); echo not-reached",
      1,
      expect.stringMatching(/^bash: 1 \/ 0: division by 0 [^\n]*\n$/),
    ],
    [
      "a prompt and a driver's line",
      "echo 'bash-5.2# '; echo '1 0'; echo \"2 0\"; (exit 9)",
      9,
      "bash-5.2# \n1 0\n2 0\n",
    ],
  ])("%s", async (_what, command, code, expected) => {
    for (let round = 0; round < 2; round++) expect(await outcome(command)).toEqual([code, expected]);
  });

  test("aliases, functions, options, arrays and positional parameters carry over", async () => {
    await run("alias greet='echo hello'; shopt -s nullglob; set -- a 'b c'; set -u; umask 027; declare -i n=4");
    expect(await outcome('greet you; echo *.none "$2" $# $((n + 1)); umask; echo ${undefined}')).toEqual([
      1,
      "hello you\nb c 2 5\n0027\nbash: undefined: unbound variable\n",
    ]);
    expect(await outcome("set +u; shopt -u nullglob; unalias greet; set --; umask 022; echo $#")).toEqual([0, "0\n"]);
  });

  test("descriptors from 3 on stay open; a redirection of the output ends with its command", async () => {
    await run("printf 'one\\ntwo\\n' > lines; exec 5< lines 6> written");
    expect(await outcome("read -r a <&5; echo $a >&6; echo $a")).toEqual([0, "one\n"]);
    expect(await outcome("read -r a <&5; echo $a >&6; exec 5<&- 6>&-; cat written")).toEqual([0, "one\ntwo\n"]);
    await run("exec > captured 2>&1; echo hidden");
    expect(await outcome("echo shown; cat captured")).toEqual([0, "shown\nhidden\n"]);
  });

  test("background jobs: listed, waited for, killed; what they write later belongs to no command", async () => {
    await run("(sleep 0.3; echo late; exit 4) & sleep 60 &");
    expect(await outcome("jobs -r | wc -l; wait %1; echo code $?")).toEqual([0, "2\nlate\ncode 4\n"]);
    expect(await outcome("kill %2; wait %2 2>/dev/null; echo $?; jobs -r | wc -l")).toEqual([0, "143\n0\n"]);
    expect((await run("fg")).exitCode).toBe(1);
    await run("(sleep 0.1; echo late) &");
    await Bun.sleep(300);
    expect(await outcome("echo now")).toEqual([0, "now\n"]);
  });

  test("a folder that is deleted below one's feet", async () => {
    await run("mkdir -p /tmp/gone/deep; cd /tmp/gone/deep; rm -r /tmp/gone");
    const [code, output] = await outcome("echo on; touch here 2>/dev/null || echo nowhere; ls -A | wc -l");
    expect([code, output]).toEqual([0, "on\nnowhere\n0\n"]);
    expect(await outcome("cd /work; pwd")).toEqual([0, "/work\n"]);
  });

  test("long lines: a command of a megabyte, and an output without a line end", async () => {
    const word = "x".repeat(1_000_000);
    expect(await outcome(`v=${word}; echo \${#v}`)).toEqual([0, "1000000\n"]);
    expect(await outcome(`cat <<'E' | wc -c\n${word}\nE`)).toEqual([0, "1000001\n"]);
    const result = await run("head -c 5000000 /dev/zero | tr '\\0' y", { timeoutMs: 20_000, maxOutputBytes: 1 << 20 });
    expect(result).toMatchObject({ exitCode: 0, outputBytes: 5_000_000, truncated: true });
    expect(text(result.output)).toMatch(/^y+\n\[\.\.\. \d+ bytes omitted \.\.\.\]\ny+$/);
  });

  test("a NUL in a command is refused before anything runs", async () => {
    await expect(run("touch ran\0; true")).rejects.toThrow("the command contains a NUL character");
    expect(await outcome("ls ran 2>/dev/null | wc -l")).toEqual([0, "0\n"]);
  });

  test("a gigabyte of output passes through where it may, and is stopped where it may not", async () => {
    const command = "head -c 1000000000 /dev/zero; echo end";
    const whole = await run(command, { timeoutMs: 100_000, maxOutputBytes: 16 << 20 });
    expect(whole).toMatchObject({ status: "exited", exitCode: 0, outputBytes: 1_000_000_004, truncated: true });
    expect(text(whole.output.subarray(-5))).toBe("\0end\n");
    const stopped = await run(command, { timeoutMs: 100_000, maxOutputBytes: 1 << 20 });
    expect(stopped).toMatchObject({ status: "output_limit", exitCode: null, truncated: true });
    expect(stopped.outputBytes).toBeLessThan(200_000_000);
    expect(await outcome("echo on")).toEqual([0, "on\n"]);
  });

  /** Whatever a command does to its shell, the next one is answered, in the same shell or, said so, in a new one. */
  test.each([
    "PS1='$(echo evil; exit 3)> '; PS2=x; PS4='$(kill -9 $$)'",
    "PROMPT_COMMAND='echo evil'",
    "PROMPT_COMMAND=exit",
    "PROMPT_COMMAND='sleep 60'",
    "trap 'echo bye; sleep 60' EXIT; exit",
    "trap 'exit 9' DEBUG",
    "trap '' INT TERM HUP QUIT; kill -INT $$; sleep 60",
    "alias eval=true command=true printf=true",
    "eval() { :; }; printf() { echo 1 0; }",
    "command() { :; }",
    "enable -n printf",
    "set -o posix; readonly LINENO PATH IFS",
    "IFS=0123456789; PATH=; LC_ALL=C.UTF-8",
    "set -v -x -f -u -C -e +o history",
    "exec 0<&- 1>&- 2>&-",
    'for fd in /proc/$$/fd/*; do eval "exec ${fd##*/}>&-"; done 2>/dev/null',
    "exec 10>&- 11>&- 12>&- 13>&- 201>&- 202>&-",
    'for n in 1 2 3 4 5; do echo "$n 0" > /proc/$$/fd/202; done 2>/dev/null',
    "ulimit -n 4; ulimit -f 0; ulimit -u 1",
    "f() { f; }; f",
    "kill -STOP $$",
    "kill -HUP $$",
    "kill -SEGV $$",
    "exec bash",
    "bash -i",
    "suspend -f",
    "exec 9>&1; (sleep 0.2; echo late >&9) & exit 2",
    "TMOUT=1",
    "shopt -s extdebug; set -T; trap 'false' DEBUG",
    "unset -f eval; unset PATH HOME PWD OLDPWD; cd",
    "mkfifo /tmp/f$$; exec 7<>/tmp/f$$; exec 0<&7",
    "stty -echo raw 2>/dev/null; reset 2>/dev/null",
    "chmod 000 /work; cd /; rm -rf /tmp/* /work/*; chmod 755 /work",
    "sleep 60 & disown -a; kill -9 -1",
  ])("after %j the shell is of use", async (command) => {
    const short = { timeoutMs: 700, maxOutputBytes: 4096 };
    await run(command, short);
    // A shell in which commands cannot be told any more is replaced when one of them takes too long.
    let answer = await run("echo on", short);
    if (answer.status !== "exited" || !text(answer.output).includes("on\n")) answer = await run("echo on");
    expect([answer.status, answer.exitCode, text(answer.output)]).toEqual([
      "exited",
      0,
      expect.stringMatching(/(^|\n)on\n/),
    ]);
    await run("kill -9 $$"); // the next begins anew
  });
});

test("a shell that can do nothing any more says so", async () => {
  await using sandbox = await provider.create(ENVIRONMENT);
  await sandbox.run("enable -n eval", LIMITS);
  const result = await sandbox.run("echo on", LIMITS);
  expect([result.exitCode, text(result.output)]).toEqual([127, "bash: eval: command not found\n"]);
});
