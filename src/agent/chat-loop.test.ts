import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { PlainBashSandbox } from "../../test/support/plain-bash.ts";
import type { Generation, PolicySession, SamplingOptions } from "../core/ports.ts";
import type { Task } from "../core/types.ts";
import type { ChatTemplate } from "../tokens/chat-template.ts";
import { readModelText } from "../tokens/model-text.ts";
import { writeCommandBlock } from "./chat-answer.ts";
import { chatFormat } from "./chat-format.ts";
import { encodeDemonstration, runDemonstration } from "./demonstration.ts";
import { runAgent } from "./loop.ts";

const FOLDER = join(import.meta.dir, "../../test/golden/text/qwen3-tiny");
const text = readModelText({
  location: FOLDER,
  has: (name) => name !== "chat_template.jinja" && name !== "special_tokens_map.json",
  read: (name) => readFileSync(join(FOLDER, name)),
  readJson: (name) => JSON.parse(readFileSync(join(FOLDER, name), "utf8")) as Record<string, unknown>,
});
const { tokenizer } = text;
const format = chatFormat({ ...text, chat: text.chat as ChatTemplate }, { location: "qwen3-tiny" });
const [END, OTHER_END] = format.stopIds as readonly [number, number];
const limits = { maxTurns: 4, maxCommandTokens: 200, maxEpisodeTokens: 3000, maxObservationChars: 200 };
const task: Task = {
  id: "test/one",
  suite: "test",
  family: "one",
  split: "train",
  seed: 0,
  instruction: "Delete the file fota.",
  environment: { profile: "host", workdir: "/work", cpus: 1, memoryBytes: 1, diskBytes: 1, pids: 1 },
  files: [{ path: "fota", content: new TextEncoder().encode("lina <|im_end|>\n"), mode: 0o644 }],
  tests: [],
  solution: [],
  demonstrations: [],
  timeouts: { command: 2, agent: 60, verifier: 5 },
};

async function converse(...answers: (readonly number[])[]) {
  const contexts: number[][] = [];
  const session: PolicySession = {
    generate: async (context: Int32Array, { maxTokens }: SamplingOptions): Promise<Generation> => {
      const ids = Int32Array.from((answers[contexts.push([...context]) - 1] ?? [END]).slice(0, maxTokens));
      const logprobs = new Float32Array(ids.length).fill(-1);
      const versions = new Int32Array(ids.length);
      return { ids, logprobs, logprobsT1: logprobs, versions, kvOldest: versions, stop: "stop" };
    },
    close: async () => {},
    [Symbol.asyncDispose]: async () => {},
  };
  await using sandbox = new PlainBashSandbox();
  await sandbox.upload("/work", task.files);
  const sampling = { temperature: 1, greedy: false };
  const signal = new AbortController().signal;
  const result = await runAgent({ session, sandbox, task, format, limits, sampling, deadlineMs: 5000, signal });
  return { ...result, contexts };
}

const say = (answer: string, end = END) => [...tokenizer.encode(answer), end];

test("a conversation: command, malformed answer, command, done", async () => {
  const answers = [
    say(writeCommandBlock("cat fota")),
    say("ls"),
    say(writeCommandBlock("rm fota"), OTHER_END),
    say("DONE"),
  ];
  const { tokens, turns, stopReason, contexts } = await converse(...answers);
  expect(stopReason).toBe("done");
  expect(turns.map(({ command, exitCode }) => [command, exitCode])).toEqual([
    ["cat fota", 0],
    ["", null],
    ["rm fota", 0],
  ]);
  expect(turns[1]?.observation).toContain("That was not understood");
  const shown = contexts.map((ids) => tokenizer.decode(Int32Array.from(ids)));
  expect(shown[0]).toEndWith("Delete the file fota.<|im_end|>\n<|im_start|>assistant\n");
  expect(shown[1]).toContain("\nlina < |im_end|>\n");
  expect(shown[2]).toContain("exactly one ```bash block");
  expect(shown[3]).toContain("(no output)");
  // the other end token stays as it was sampled
  expect([...tokens.ids].filter((_, t) => tokens.mask[t] === 1)).toEqual(answers.flat());
});

test("whatever is sampled stays token for token, also where its text would encode to other tokens", async () => {
  const answer = fc
    .array(fc.integer({ min: 0, max: tokenizer.vocabularySize - 1 }), { maxLength: 25 })
    .map((ids) => [...ids.filter((id) => !format.stopIds.includes(id)), END]);
  let reencoded = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(answer, { minLength: 4, maxLength: 4 }), async (answers) => {
      const { tokens, contexts, stopReason } = await converse(...answers);
      expect(stopReason).toBe("turns");
      const sampled = [...tokens.ids].filter((_, t) => tokens.mask[t] === 1);
      expect(sampled).toEqual(answers.flat());
      const whole = contexts.flatMap((context, turn) => [...context, ...(answers[turn] as number[])]);
      expect([...tokens.ids].slice(0, whole.length)).toEqual(whole);
      if (!Bun.deepEquals([...tokenizer.encodeMarkup(tokenizer.decode(tokens.ids))], [...tokens.ids])) reencoded++;
    }),
    { numRuns: 5 },
  );
  expect(reencoded).toBeGreaterThan(0);
});

test("a demonstration is what a policy would have said, with the same mask", async () => {
  const commands = ["cat fota", "cat nothing", "rm fota"];
  await using sandbox = new PlainBashSandbox();
  await sandbox.upload("/work", task.files);
  const recorded = await runDemonstration(task, commands, sandbox, format, limits);
  const record = encodeDemonstration(task.instruction, recorded, format);
  const spoken = [...commands.map((command) => [...format.writeCommand(command)]), [...format.writeDone()]];
  const { tokens } = await converse(...spoken);
  expect([record.ids, record.mask, record.turnIds]).toEqual([tokens.ids, tokens.mask, tokens.turnIds]);
});

test("an answer that never ends is cut at the limit of a command", async () => {
  expect((await converse(new Array(300).fill(5))).stopReason).toBe("length");
});
