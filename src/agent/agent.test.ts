import { afterEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { PlainBashSandbox } from "../../test/support/plain-bash.ts";
import type { CommandResult, Generation, PolicySession, SamplingOptions } from "../core/ports.ts";
import type { Task } from "../core/types.ts";
import { trainBpe } from "../tokens/bpe-trainer.ts";
import { BpeTokenizer } from "../tokens/tokenizer.ts";
import { compactFormat, renderCompact } from "./compact-format.ts";
import { encodeDemonstration, runDemonstration } from "./demonstration.ts";
import { type AgentLimits, type AgentOptions, runAgent } from "./loop.ts";

const tokenizer = new BpeTokenizer(
  trainBpe(["delete the file fota", "rm fota", "cat fota", "echo lina > meto"], 300),
  "test",
);
const format = compactFormat(tokenizer);
const [PAD, TASK, CMD, OBS, DONE] = [0, 1, 2, 3, 4] as const;
const encode = (text: string) => [...tokenizer.encode(text)];
const limits: AgentLimits = { maxTurns: 6, maxCommandTokens: 36, maxEpisodeTokens: 208, maxObservationChars: 64 };
const task: Task = {
  id: "test/one",
  suite: "test",
  family: "one",
  split: "train",
  seed: 0,
  instruction: "delete the file fota",
  environment: { profile: "host", workdir: "/work", cpus: 1, memoryBytes: 1, diskBytes: 1, pids: 1 },
  files: [{ path: "fota", content: new TextEncoder().encode("lina\n"), mode: 0o644 }],
  tests: [],
  solution: [],
  demonstrations: [],
  timeouts: { command: 2, agent: 60, verifier: 5 },
};

/** Says these tokens, one list per answer, and keeps what it was asked. */
class Speaker implements PolicySession {
  readonly contexts: number[][] = [];
  readonly asked: SamplingOptions[] = [];
  readonly #answers: readonly (readonly number[])[];

  constructor(...answers: (readonly number[])[]) {
    this.#answers = answers;
  }

  async generate(context: Int32Array, sampling: SamplingOptions): Promise<Generation> {
    const index = this.contexts.push([...context]) - 1;
    this.asked.push(sampling);
    const wanted = this.#answers[index] ?? [DONE];
    const ids = Int32Array.from(wanted.slice(0, sampling.maxTokens));
    const stop = sampling.stopIds.includes(ids.at(-1) ?? -1) ? "stop" : "length";
    const logprobs = Float32Array.from(ids, (id) => -1 / (id + 1));
    const versions = ids.map(() => 7 + index);
    const kvOldest = versions.map((version) => version - 1);
    return { ids, logprobs, logprobsT1: logprobs.map((x) => 2 * x), versions, kvOldest, stop };
  }

  async close(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}
}

const command = (text: string) => [...encode(text), OBS];
const open: PlainBashSandbox[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((sandbox) => sandbox.destroy()));
});

async function sandboxOf(sandbox = new PlainBashSandbox()): Promise<PlainBashSandbox> {
  open.push(sandbox);
  await sandbox.upload("/work", task.files);
  return sandbox;
}

async function runWith(session: PolicySession, options: Partial<AgentOptions> = {}) {
  const sandbox = options.sandbox ?? (await sandboxOf());
  const sampling = { temperature: 1, greedy: false };
  const signal = new AbortController().signal;
  return runAgent({ session, sandbox, task, format, limits, sampling, deadlineMs: 5000, signal, ...options });
}

describe("transcript", () => {
  test("has the shape <task>text<cmd>command<obs>observation<cmd>…<done>, and masks what was sampled", async () => {
    const phases: string[] = [];
    const session = new Speaker(command("cat fota"), command("rm fota"), [DONE]);
    const { tokens, turns, stopReason } = await runWith(session, { onPhase: (phase) => phases.push(phase) });
    const opening = [TASK, ...encode("delete the file fota"), CMD];
    const observed = [...encode("lina"), CMD];
    expect([...tokens.ids]).toEqual([
      ...opening,
      ...command("cat fota"),
      ...observed,
      ...command("rm fota"),
      CMD,
      DONE,
    ]);
    const spoken = tokens.ids.map((_, i) => tokens.mask[i] as number);
    expect([...tokens.ids].filter((_, i) => spoken[i] === 1)).toEqual([
      ...command("cat fota"),
      ...command("rm fota"),
      DONE,
    ]);
    tokens.ids.forEach((id, i) => {
      expect(tokens.logprobs[i]).toBeCloseTo(spoken[i] === 1 ? -1 / (id + 1) : 0);
      expect(tokens.logprobsT1[i]).toBeCloseTo(spoken[i] === 1 ? -2 / (id + 1) : 0);
      expect(tokens.turnIds[i] === -1).toBe(spoken[i] === 0);
      if (spoken[i] === 1) expect(tokens.versions[i]).toBe(7 + (tokens.turnIds[i] as number));
    });
    expect([...new Set(tokens.turnIds)].sort()).toEqual([-1, 0, 1, 2]);
    expect(session.contexts).toEqual([opening, observed, [CMD]]);
    expect(session.asked[0]).toEqual({
      temperature: 1,
      greedy: false,
      maxTokens: 37,
      stopIds: [PAD, TASK, CMD, OBS, DONE],
    });
    expect(turns.map(({ command, observation, exitCode }) => [command, observation, exitCode])).toEqual([
      ["cat fota", "lina", 0],
      ["rm fota", "", 0],
    ]);
    expect(phases).toEqual(["generate", "tool", "generate", "tool", "generate"]);
    expect(stopReason).toBe("done");
  });

  test("a demonstration is what a policy would have said, with the same mask", async () => {
    const commands = ["cat fota", "cat nothing", "rm fota"];
    const turns = await runDemonstration(task, commands, await sandboxOf(), format, limits);
    const record = encodeDemonstration(task.instruction, turns, format);
    const { tokens } = await runWith(new Speaker(...commands.map(command), [DONE]));
    expect(record.ids).toEqual(tokens.ids);
    expect(record.mask).toEqual(tokens.mask);
    expect(record.turnIds).toEqual(tokens.turnIds);
  });

  test("whatever is sampled, the arrays agree and no limit is passed", async () => {
    const sandbox = await sandboxOf();
    // commands of random tokens are not run: the sandbox prints them instead
    sandbox.run = (text, options) =>
      sandbox.exec(["printf", "%s", text.replaceAll("\0", "")], { ...options, cwd: "/work" });
    const answer = fc.array(fc.integer({ min: 0, max: 299 }), { minLength: 1, maxLength: 50 }).map((ids) => {
      const end = ids.findIndex((id) => id <= DONE);
      return end === -1 ? ids : ids.slice(0, end + 1);
    });
    await fc.assert(
      fc.asyncProperty(fc.array(answer, { minLength: 7, maxLength: 7 }), async (answers) => {
        const { tokens, turns, stopReason } = await runWith(new Speaker(...answers), { sandbox });
        const lengths = Object.values(tokens).map((array) => array.length);
        expect(new Set(lengths).size).toBe(1);
        expect(tokens.ids.length).toBeLessThanOrEqual(limits.maxEpisodeTokens);
        expect(turns.length).toBeLessThanOrEqual(limits.maxTurns);
        expect(["done", "turns", "length", "format"]).toContain(stopReason);
        const sampled = [...tokens.ids].filter((_, i) => tokens.mask[i] === 1);
        // a prefix of what was offered, cut only where a limit cut it
        const offered = answers.flatMap((ids) => ids.slice(0, limits.maxCommandTokens + 1));
        expect(sampled).toEqual(offered.slice(0, sampled.length));
      }),
      { numRuns: 15 },
    );
  });
});

describe("observations", () => {
  const observe = (output: string | Uint8Array, exitCode: number | null = 0) =>
    renderCompact(
      { output: typeof output === "string" ? new TextEncoder().encode(output) : output, exitCode } as CommandResult,
      64,
    );

  test.each([
    ["a\nb\n", 0, "a\nb"],
    ["bash: line 1: foo: command not found\n", 127, "!foo: command not found"],
    ["/usr/bin/bash: line 42: ./x: Permission denied\n", 126, "!./x: Permission denied"],
    ["bash: foo: command not found\n", 127, "!foo: command not found"],
    ["fix.sh: line 2: ecoh: command not found\n", 127, "!fix.sh: line 2: ecoh: command not found"],
    ["é\t\u001b[31m", 0, "????[31m"],
    ["", 1, "!"],
    ["x", null, "!x"],
    ["x".repeat(100), 0, "x".repeat(64)],
  ])("%j with exit code %p", (output, exitCode, shown) => {
    expect(observe(output, exitCode)).toBe(shown);
  });

  test("any bytes give at most 65 printable characters", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 0, max: 1 }), (bytes, exitCode) => {
        expect(observe(bytes, exitCode)).toMatch(/^[\n\x20-\x7e]{0,65}$/);
      }),
    );
  });
});

test("latency is spent before each command, shows in its turn and counts against no command's limit", async () => {
  const asked: number[] = [];
  const latency = (turn: number) => {
    asked.push(turn);
    return turn === 1 ? 0 : 120;
  };
  const script = () => new Speaker(command("cat fota"), command("cat fota"), command("rm fota"), [DONE]);
  const strict = { ...limits, commandSeconds: 0.1 };
  const late = await runWith(script(), { latency, limits: strict });
  const plain = await runWith(script(), { limits: strict });
  expect(asked).toEqual([0, 1, 2]);
  expect(late.stopReason).toBe("done");
  expect(late.tokens).toEqual(plain.tokens);
  for (const { index, generatedMs, observedMs } of late.turns) {
    if (index !== 1) expect(observedMs - generatedMs).toBeGreaterThanOrEqual(120);
  }
});

describe("stop reasons", () => {
  const stopOf = async (session: PolicySession, options: Partial<AgentOptions> = {}) =>
    (await runWith(session, options)).stopReason;

  test.each([
    ["a structural token inside a command", [...encode("rm"), CMD], "format"],
    ["done after text", [...encode("rm"), DONE], "format"],
    ["an empty command", [OBS], "format"],
    ["padding", [PAD], "format"],
    ["a command without end", encode("cat fota ".repeat(20)), "length"],
    ["done at once", [DONE], "done"],
  ])("%s", async (_, answer, reason) => {
    expect(await stopOf(new Speaker(answer))).toBe(reason as never);
  });

  test("six commands without done", async () => {
    const six = Array.from({ length: 7 }, () => command("cat fota"));
    const result = await runWith(new Speaker(...six));
    expect([result.stopReason, result.turns.length]).toEqual(["turns", 6]);
  });

  test("a last observation that does not fit is left out", async () => {
    const room = encode(task.instruction).length + 2 + command("cat fota").length;
    const tight = { ...limits, maxTurns: 1, maxEpisodeTokens: room + 1 };
    const result = await runWith(new Speaker(command("cat fota")), { limits: tight });
    expect([result.stopReason, result.tokens.ids.length]).toEqual(["turns", room]);
  });

  test("an instruction that leaves no room", async () => {
    expect(await stopOf(new Speaker(), { limits: { ...limits, maxEpisodeTokens: 5 } })).toBe("length");
  });

  test("a command that takes too long", async () => {
    const slow = { ...limits, commandSeconds: 0.05 };
    expect(await stopOf(new Speaker(command("sleep 9")), { limits: slow })).toBe("command_timeout");
  });

  test("an episode whose time is over, in a command and in an answer", async () => {
    expect(await stopOf(new Speaker(command("sleep 9")), { deadlineMs: 40 })).toBe("timeout");
    const hanging = new Speaker();
    hanging.generate = (_, __, signal?: AbortSignal) =>
      new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    expect(await stopOf(hanging, { deadlineMs: 20 })).toBe("timeout");
    expect(await stopOf(hanging, { task: { ...task, timeouts: { ...task.timeouts, agent: 0.02 } } })).toBe("timeout");
  });

  test("an environment that answers after the episode is over", async () => {
    const result = await runWith(new Speaker(command("cat fota")), { deadlineMs: 60, latency: () => 9000 });
    expect([result.stopReason, result.turns]).toEqual(["timeout", []]);
  });

  test.each(["memory", "pids", "disk"] as const)("the sandbox's %s limit explains a failed command", async (limit) => {
    const sandbox = await sandboxOf();
    sandbox.limits = { ...sandbox.limits, [limit]: 1 };
    expect(await stopOf(new Speaker(command("cat nothing")), { sandbox })).toBe(limit);
    expect(await stopOf(new Speaker([DONE]), { sandbox })).toBe(limit);
  });

  test.each(["output_limit", "shell_died"] as const)("a command that ended in %s", async (status) => {
    const sandbox = await sandboxOf();
    const { run } = sandbox;
    sandbox.run = async (text, options) => ({ ...(await run.call(sandbox, text, options)), exitCode: null, status });
    expect(await stopOf(new Speaker(command("cat fota")), { sandbox })).toBe(status);
  });

  test("a broken sandbox keeps what was said", async () => {
    const sandbox = await sandboxOf();
    await sandbox.destroy();
    const result = await runWith(new Speaker(command("cat fota")), { sandbox });
    expect([result.stopReason, result.error]).toEqual(["sandbox_error", "the sandbox is gone"]);
    expect([...result.tokens.ids].slice(-4)).toEqual(command("cat fota").slice(-4));
  });

  test("what the policy throws and an aborted run reach the caller", async () => {
    const lost = new Speaker();
    lost.generate = async () => {
      throw new Error("engine lost");
    };
    await expect(runWith(lost)).rejects.toThrow("engine lost");
    const controller = new AbortController();
    controller.abort(new Error("stop"));
    await expect(runWith(new Speaker([DONE]), { signal: controller.signal })).rejects.toThrow("stop");
  });
});
