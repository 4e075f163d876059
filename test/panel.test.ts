/** The live view as a person meets it: on a real terminal, in a pipe, interrupted. */

import { expect, test } from "bun:test";
import { join } from "node:path";

const SCRIPT = join(import.meta.dir, "panel-feed.ts");
const ENVIRONMENT = { PATH: process.env.PATH ?? "", HOME: "/nonexistent", TERM: "xterm-256color" };
const HIDE_CURSOR = "\x1b[?25l";
const SHOW_CURSOR = "\x1b[?25h";

async function onTerminal(
  args: readonly string[],
  act: (write: (keys: string) => void, seen: () => string) => Promise<void>,
) {
  let output = "";
  const decoder = new TextDecoder();
  const child = Bun.spawn([process.execPath, SCRIPT, ...args], {
    env: ENVIRONMENT,
    terminal: {
      cols: 100,
      rows: 30,
      data: (_terminal, chunk) => {
        output += decoder.decode(chunk, { stream: true });
      },
    },
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
  try {
    await act(
      (keys) => child.terminal?.write(keys),
      () => output,
    );
    const code = await child.exited;
    return { code, output };
  } finally {
    clearTimeout(timer);
    child.terminal?.close();
  }
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 150; i++) {
    if (condition()) return;
    await Bun.sleep(50);
  }
  throw new Error("the panel never showed what was waited for");
}

test("on a terminal: a panel, at most five drawings a second, the cursor back at the end", async () => {
  const started = performance.now();
  const { code, output } = await onTerminal(["panel", "10", "6"], async () => {});
  const seconds = (performance.now() - started) / 1000;
  expect(code).toBe(0);
  expect(Bun.stripANSI(output)).toContain("step 6/6");
  expect(Bun.stripANSI(output)).toContain("warning: hostile text");
  expect(output).not.toContain("\x1b]0;");
  expect(output.lastIndexOf(SHOW_CURSOR)).toBeGreaterThan(output.lastIndexOf(HIDE_CURSOR));
  const drawings = Bun.stripANSI(output).split("episodes   in flight").length - 1;
  expect(drawings).toBeGreaterThan(1);
  expect(drawings).toBeLessThanOrEqual(Math.ceil(seconds * 5) + 3);
});

test("Ctrl-C: says that it saves, ends with 130 and the command to go on", async () => {
  const { code, output } = await onTerminal(["panel", "10", "500"], async (write, seen) => {
    await until(() => seen().includes("step 2/500"));
    write("\x03");
  });
  expect(code).toBe(130);
  const text = Bun.stripANSI(output);
  expect(text).toContain("stopping: saving and cleaning up");
  expect(text).toContain("stopped: run shell-scripted is saved");
  expect(text.trimEnd()).toEndWith("next: ale resume shell-scripted");
  expect(output.lastIndexOf(SHOW_CURSOR)).toBeGreaterThan(output.lastIndexOf(HIDE_CURSOR));
});

test("three times Ctrl-C ends at once, with the cursor back", async () => {
  const { code, output } = await onTerminal(["panel", "0.2", "500"], async (write, seen) => {
    await until(() => seen().includes("step 0/500"));
    write("\x03");
    await until(() => seen().includes("stopping: saving"));
    write("\x03");
    await until(() => seen().includes("press Ctrl-C once more"));
    write("\x03");
  });
  expect(code).toBe(130);
  expect(Bun.stripANSI(output)).toContain("stopped at once");
  expect(output.lastIndexOf(SHOW_CURSOR)).toBeGreaterThan(output.lastIndexOf(HIDE_CURSOR));
});

test("a terminal that is closed: the run is saved all the same", async () => {
  const child = Bun.spawn([process.execPath, SCRIPT, "panel", "10", "500"], {
    env: ENVIRONMENT,
    terminal: { cols: 100, rows: 30, data: () => {} },
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
  await Bun.sleep(1000);
  child.terminal?.close();
  expect(await child.exited).toBe(130);
  clearTimeout(timer);
});

test.each([["plain"], ["json"]])("in a pipe (%s): lines without a single escape sequence", async (mode) => {
  const child = Bun.spawn([process.execPath, SCRIPT, mode, "200", "25"], { env: ENVIRONMENT, stdout: "pipe" });
  const text = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  expect(text).not.toContain("\x1b");
  const lines = text.trimEnd().split("\n");
  if (mode === "json") {
    const types = lines.map((line) => (JSON.parse(line) as { type: string }).type);
    expect(types.filter((type) => type === "step.finished")).toHaveLength(25);
    expect(types).not.toContain("episode.phase");
  } else {
    expect(lines.filter((line) => /^step +\d+\/25 {2}reward/.test(line))).toHaveLength(25);
    expect(lines.filter((line) => line.startsWith("evaluation at step"))).toHaveLength(6);
    expect(lines).toContain("warning: hostile text");
  }
});
