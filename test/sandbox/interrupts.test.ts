/** Interrupts at every moment of a command: while its shell starts, reads, forks, and waits. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { NamedShell } from "../../src/sandbox/shells.ts";
import { ENVIRONMENT, LIMITS, openProvider, type TestProvider, text, until } from "./support.ts";

/** Sandboxes at once: on two processors each waits for its turn, and moments lie further apart. */
const LANES = 6;
const ROUNDS = 8;
/** Milliseconds; the first ones are where shells fork. */
const DELAYS = [0, 0, 0.3, 0.6, 1, 1.5, 2, 4];

let provider: TestProvider;
beforeAll(async () => {
  provider = await openProvider();
});
afterAll(() => provider?.close());

/** Waits without a timer, whose millisecond is too coarse. */
async function pass(ms: number): Promise<void> {
  const end = performance.now() + ms;
  while (performance.now() < end) await new Promise((resolve) => setImmediate(resolve));
}

/** Starts a command that takes a minute, and returns its end. */
type Start = (shell: NamedShell) => Promise<() => Promise<number | null>>;

const inFront: Start = async (shell) => {
  const started = await shell.run("echo 'ready>'; sleep 60", { ...LIMITS, interactive: true, expect: [/ready>/] });
  expect(started.matched).toBe("ready>");
  return async () => {
    await until("the shell is free", LIMITS.timeoutMs, () => !shell.busy);
    return 130;
  };
};

const plain: Start = async (shell) => {
  const result = shell.run("sleep 60; echo not reached", LIMITS);
  return async () => {
    const { exitCode, output } = await result;
    expect(text(output)).toBe("");
    return exitCode;
  };
};

/** One sandbox: interrupts one command after the other, and has the shell answer after each. */
async function lane(start: Start, fresh: boolean, offset: number): Promise<void> {
  await using sandbox = await provider.createBare(ENVIRONMENT);
  let shell = await NamedShell.open(sandbox, 1, "one", { cwd: "/work" });
  for (let round = 0; round < ROUNDS; round++) {
    const ended = await start(shell);
    await pass(DELAYS[(round + offset) % DELAYS.length] ?? 0);
    expect(await shell.interrupt()).toBe(true);
    expect(await ended()).toBe(130);
    const next = await shell.run("echo free; ps -o stat= -C sleep | grep -vc Z", { ...LIMITS, timeoutMs: 4000 });
    expect({ status: next.status, output: text(next.output) }).toEqual({ status: "exited", output: "free\n0\n" });
    if (!fresh) continue;
    await shell.close();
    shell = await NamedShell.open(sandbox, 1, "one", { cwd: "/work" });
  }
}

describe.each([
  ["a program in front", inFront],
  ["a command", plain],
] as const)("an interrupt of %s", (_name, start) => {
  test.each([
    ["a shell that is new", true],
    ["a shell that goes on", false],
  ])("ends it, and nothing else, in %s", async (_shell, fresh) => {
    await Promise.all(Array.from({ length: LANES }, (_, i) => lane(start, fresh, i)));
  });
});
