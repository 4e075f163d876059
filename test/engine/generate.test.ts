/** `ale generate` on Hugging Face folders, through the command line and a real engine process. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCli } from "../../src/cli/program.ts";

const VECTORS = join(import.meta.dir, "../golden");
const { prompts } = JSON.parse(readFileSync(join(VECTORS, "models/llama-tiny/generation.json"), "utf8")) as {
  prompts: { ids: number[]; greedy: number[]; greedy_logprobs: number[] }[];
};
let place: string;
let model: string;
beforeAll(() => {
  place = mkdtempSync(join(tmpdir(), "ale-generate-test-"));
  model = join(place, "llama-tiny");
  cpSync(join(VECTORS, "text/llama-tiny"), model, { recursive: true });
  for (const file of ["config.json", "model.safetensors"]) {
    cpSync(join(VECTORS, "models/llama-tiny", file), join(model, file));
  }
});
afterAll(() => rmSync(place, { recursive: true, force: true }));

interface Answer {
  readonly ids: number[];
  readonly text: string | null;
  readonly logprobs: number[];
  readonly stop: string;
  readonly stopString?: string;
  readonly topLogprobs?: { id: number; logprob: number }[][];
  readonly promptIds: number[];
}

async function generate(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const streams = { stdout: "", stderr: "" };
  const sink = (name: keyof typeof streams) => ({
    write: (text: string) => {
      streams[name] += text;
    },
  });
  const env = { ALE_HOME: join(place, "home") };
  const code = await runCli(["generate", ...args], { stdout: sink("stdout"), stderr: sink("stderr"), env });
  return { code, out: streams.stdout, err: streams.stderr };
}

async function answer(...args: string[]): Promise<Answer> {
  const { code, out, err } = await generate("--model", model, "--json", ...args);
  if (code !== 0) throw new Error(err);
  return JSON.parse(out) as Answer;
}

test("greedy continuations of ids are the golden ones, with their log-probabilities", async () => {
  for (const { ids, greedy, greedy_logprobs } of prompts) {
    const got = await answer("--ids", ids.join(","), "--greedy", "--max-tokens", `${greedy.length}`);
    expect(got.ids).toEqual(greedy);
    for (const [t, logprob] of got.logprobs.entries()) {
      expect(Math.abs(logprob - (greedy_logprobs[t] as number))).toBeLessThan(2e-4);
    }
    expect(got.stop).toBe("length");
  }
});

describe("a prompt", () => {
  const text = "<|im_start|>user\nHi";

  test("begins with the tokens of a text; a conversation is rendered; the same seed gives the same answer", async () => {
    const plain = await answer("--prompt", text, "--max-tokens", "5", "--seed", "3");
    expect(plain.promptIds.slice(0, 2)).toEqual([316, 318]);
    expect(await answer("--prompt", text, "--max-tokens", "5", "--seed", "3")).toEqual(plain);
    const chat = await answer("--prompt", "Hi", "--chat", "--system", "Be brief.", "--max-tokens", "1");
    const golden = JSON.parse(readFileSync(join(model, "chat.json"), "utf8")) as { chats: { ids: number[] }[] };
    expect(chat.promptIds.slice(0, 22)).toEqual((golden.chats[1]?.ids ?? []).slice(0, 22));
  });

  test("is answered up to a stop string, an end token or a stop id; the text streams", async () => {
    const whole = await answer("--prompt", text, "--greedy", "--max-tokens", "40");
    const stop = (whole.text as string).slice(3, 5);
    const cut = await answer("--prompt", text, "--greedy", "--max-tokens", "40", "--stop", stop, "--stop", "§");
    expect([cut.stop, cut.stopString]).toEqual(["stop", stop]);
    expect(cut.text).toBe((whole.text as string).slice(0, whole.text?.indexOf(stop)));
    expect(cut.ids).toEqual(whole.ids.slice(0, cut.ids.length));
    expect(cut.logprobs.length).toBe(cut.ids.length);
    const last = whole.ids[4] as number;
    const stopped = await answer("--prompt", text, "--greedy", "--stop-ids", `${last}`);
    expect(stopped.ids).toEqual(whole.ids.slice(0, whole.ids.indexOf(last) + 1));
    const streamed = await generate("--model", model, "--prompt", text, "--greedy", "--max-tokens", "40");
    expect(streamed.out).toBe(`${whole.text}\n`);
    expect(streamed.err).toContain(`${whole.ids.length} tokens, ended by`);
  });
});

test("sampling as asked for, else as the model's authors do", async () => {
  const one = ["--max-tokens", "6", "--seed", "5"];
  const greedy = await answer("--prompt", "Hi", "--greedy", "--ignore-end", ...one);
  const narrow = await answer("--prompt", "Hi", "--top-k", "1", "--ignore-end", ...one);
  expect(narrow.ids).toEqual(greedy.ids);
  expect(Math.max(...narrow.logprobs.map(Math.abs))).toBeLessThan(1e-6);
  const shown = await answer("--prompt", "Hi", "--top-logprobs", "20", "--ignore-end", ...one);
  // generation_config.json: temperature 0.7, top_k 20, top_p 0.8
  for (const [t, top] of (shown.topLogprobs ?? []).entries()) {
    const total = top.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0);
    expect(total).toBeCloseTo(1, 4);
    expect(top.find(({ id }) => id === shown.ids[t])?.logprob).toBeCloseTo(shown.logprobs[t] as number, 4);
  }
  const raw = await answer("--ids", greedy.promptIds.join(","), "--top-logprobs", "20", ...one);
  expect(raw.topLogprobs?.[0]?.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0)).toBeLessThan(0.99);
});

test("a GGUF file is a model with tokenizer and chat template", async () => {
  const file = join(VECTORS, "gguf/llama/gguf/llama.gguf");
  const ask = ["--prompt", "Hi", "--greedy", "--max-tokens", "2", "--json"];
  const [plain, chat] = await Promise.all([
    generate("--model", file, ...ask),
    generate("--model", file, "--chat", ...ask),
  ]);
  const golden = JSON.parse(readFileSync(join(model, "chat.json"), "utf8")) as { chats: { ids: number[] }[] };
  expect((JSON.parse(plain.out) as Answer).promptIds).toEqual([316, 39, 72]);
  expect((JSON.parse(chat.out) as Answer).promptIds).toEqual(golden.chats[0]?.ids ?? []);
});

test("without a tokenizer ids still work, and a text is refused with the way out", async () => {
  const bare = join(place, "bare");
  cpSync(model, bare, { recursive: true });
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) rmSync(join(bare, file));
  const { ids, greedy } = prompts[0] as (typeof prompts)[number];
  const result = await generate("--model", bare, "--ids", ids.join(","), "--greedy", "--max-tokens", "3", "--json");
  expect(JSON.parse(result.out)).toMatchObject({ ids: greedy.slice(0, 3), text: null });
  const refused = await generate("--model", bare, "--prompt", "Hi");
  expect([refused.code, refused.err]).toEqual([2, expect.stringMatching(/has no tokenizer\.json.*\n.*--ids/)]);
});

test.each([
  [["--prompt", ""], "the prompt is empty"],
  [[], "there is nothing to continue"],
  [["--ids", "1,x"], "expected token ids"],
  [["--ids", "1,320"], "token 1 of the prompt is 320, which is not in the vocabulary"],
  [["--ids", new Array(5000).fill(1).join(",")], "the prompt has 5000 tokens, which leaves no room"],
  [["--ids", "1", "--chat"], "--chat writes a text, and --ids gives tokens"],
  [["--prompt", "x", "--ids", "1"], "cannot be used with"],
  [["--prompt", "x", "--system", "y"], "--system is only said in a conversation"],
])("refused: %#", async (args, message) => {
  const { code, err } = await generate("--model", model, ...args);
  expect([code, err]).toEqual([2, expect.stringContaining(message)]);
});

test("with quantised weights the golden log-probabilities are near, and a form that does not exist is named", async () => {
  for (const [form, limit] of [
    ["int8", 0.2],
    ["int4", 1],
  ] as const) {
    const { ids, greedy, greedy_logprobs } = prompts[0] as (typeof prompts)[0];
    const got = await answer("--ids", ids.join(","), "--greedy", "--max-tokens", "1", "--quantization", form);
    expect(got.ids).toEqual(greedy.slice(0, 1));
    const difference = Math.abs((got.logprobs[0] as number) - (greedy_logprobs[0] as number));
    expect(difference).toBeLessThan(limit);
    expect(difference).toBeGreaterThan(1e-5);
  }
  const refused = await generate("--model", model, "--ids", "1", "--quantization", "int2");
  expect(refused.code).toBe(2);
  expect(refused.err).toContain("int2");
});
