/** A teacher behind the API, as a run on another machine asks it: both protocols, over HTTP, with a real model. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { Rng } from "../../core/rng.ts";
import type { Teacher, TeacherScores, TopTokens } from "../../core/teacher.ts";
import { ARCHITECTURES, type DecoderConfig } from "../../models/config.ts";
import { ParameterStore } from "../../models/parameter-store.ts";
import { initializeParameters, parameterLayout } from "../../models/parameters.ts";
import { RemoteTeacher, type RemoteTeacherSettings } from "../../policy/remote-logprobs.ts";
import { trainBpe } from "../../tokens/bpe-trainer.ts";
import { BpeTokenizer } from "../../tokens/tokenizer.ts";
import { Learner } from "../../trainer/learner.ts";
import { createApp } from "../app.ts";
import { requireToken } from "../guards.ts";
import { serve } from "../serve.ts";
import { scoringRoutes } from "./routes.ts";
import { ScoreQueue } from "./score-queue.ts";

const V = 270;
const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  ...{ vocabularySize: V, hiddenSize: 16, layers: 1, heads: 2, kvHeads: 1, headDim: 8, intermediateSize: 24 },
  ...{ normEps: 1e-5, ropeTheta: 10_000, ropeScaling: null, tiedEmbeddings: true, contextLength: 16 },
};
const TOKEN = "secret";
const NEVER = new AbortController().signal;
const rng = new Rng("scoring");
const sequences = [9, 4, 16, 1].map((length) => Int32Array.from({ length }, () => rng.int(0, V - 1)));
const open = { run: <T>(work: () => Promise<T>) => work() };

class TinyTeacher implements Teacher {
  readonly name = "tiny";
  readonly #learner: Learner;
  batches: number[] = [];

  constructor() {
    const store = ParameterStore.inMemory(parameterLayout(CONFIG));
    initializeParameters(CONFIG, store.layout, store.parameters(0), 1);
    this.#learner = new Learner(CONFIG, store, { threads: 1 });
  }

  async score(
    sequences: readonly Int32Array[],
    { top, temperature }: { readonly top: number; readonly temperature: number },
  ): Promise<TeacherScores> {
    this.batches.push(sequences.length);
    await Bun.sleep(1); // as the way to an engine takes
    const asked = top === 0 ? {} : { top: { count: top, among: V } };
    const { logprobs, topIds, topLogprobs } = this.#learner.forward(sequences, 0, temperature, asked);
    if (top === 0) return { logprobs };
    return { logprobs, top: { count: top, ids: topIds.map((row) => Int32Array.from(row)), logprobs: topLogprobs } };
  }

  async stop(): Promise<void> {
    this.#learner.release();
  }
}

const tiny = new TinyTeacher();
let service: ReturnType<typeof serve>;

beforeAll(() => {
  const tokenizer = new BpeTokenizer(trainBpe(["count the lines"], V), "test");
  const app = createApp({ store: {} as Parameters<typeof createApp>[0]["store"], token: TOKEN });
  app.use("/v1/completions", requireToken(TOKEN));
  const queue = new ScoreQueue(tiny, V);
  app.route("/v1", scoringRoutes({ queue, model: "tiny", tokenizer, vocabularySize: V, contextLength: 16 }));
  service = serve(app, { port: 0 });
});
afterAll(async () => {
  await service[Symbol.asyncDispose]();
  await tiny.stop();
});

function client(settings: Partial<RemoteTeacherSettings> = {}): RemoteTeacher {
  const common = { url: `${service.url}/v1/`, model: "tiny", apiKey: TOKEN, timeoutMs: 5000, retries: 0 };
  return new RemoteTeacher({ ...common, protocol: "echo", ...settings }, open);
}

const ask = (top: number, temperature = 1) => ({ temperature, top, vocabularySize: V });

test.each(["echo", "prompt_logprobs"] as const)("%s tells what the model says", async (protocol) => {
  const teacher = client({ protocol });
  const expected = await tiny.score(sequences, ask(3));
  const found = await teacher.score(sequences, ask(3), NEVER);
  const top = expected.top as TopTokens;
  expect(found.top?.ids).toEqual(top.ids);
  for (const [i, row] of expected.logprobs.entries()) {
    for (const [t, value] of row.entries())
      expect(Math.abs((found.logprobs[i]?.[t] as number) - value)).toBeLessThan(1e-5);
    for (const [k, value] of (top.logprobs[i] as Float32Array).entries())
      expect(Math.abs((found.top?.logprobs[i]?.[k] as number) - value)).toBeLessThan(1e-5);
  }
  expect((await teacher.score(sequences, ask(0), NEVER)).top).toBeUndefined();
});

test("what is asked at once is computed together", async () => {
  tiny.batches = [];
  const many = Array.from({ length: 20 }, () => sequences[0] as Int32Array);
  await client().score(many, ask(0), NEVER);
  expect(tiny.batches.reduce((sum, size) => sum + size, 0)).toBe(20);
  expect(tiny.batches.length).toBeLessThan(20);
});

test("what cannot be answered is said, with the next step", async () => {
  const score = (teacher: RemoteTeacher, ids = [1, 2], options = ask(0)) =>
    teacher.score([Int32Array.from(ids)], options, NEVER);
  await expect(score(client({ apiKey: "wrong" }))).rejects.toThrow("does not accept the request (401)");
  await expect(score(client(), [1, V])).rejects.toThrow(`tiny has no token ${V}`);
  await expect(
    score(
      client(),
      Array.from({ length: 17 }, () => 1),
    ),
  ).rejects.toThrow("reads at most 16 tokens");
  await expect(score(client(), [1, 2], ask(0, 0.7))).rejects.toThrow("at temperature 1, not 0.7");
  const gone = client({ url: "http://127.0.0.1:9/v1", retries: 1, firstPauseMs: 1 });
  await expect(score(gone)).rejects.toThrow("did not score a sequence in 2 tries: it cannot be reached");
});

test("a server that must write something is given one token, and one that is busy is asked again", async () => {
  const bodies: Record<string, unknown>[] = [];
  const server = Bun.serve({
    port: 0,
    fetch: async (request) => {
      const body = (await request.json()) as Record<string, unknown>;
      bodies.push(body);
      if (body.max_tokens === 0) return Response.json({ error: "max_tokens must be at least 1" }, { status: 400 });
      if (bodies.length === 2) return new Response("busy", { status: 503 });
      return Response.json({ choices: [{ logprobs: { token_logprobs: [null, -0.5, -9] } }] });
    },
  });
  const teacher = client({ url: `${server.url}v1`, retries: 1, firstPauseMs: 1 });
  const { logprobs } = await teacher.score([Int32Array.of(5, 6)], ask(0), NEVER);
  expect(Array.from(logprobs[0] ?? [])).toEqual([0, -0.5]);
  expect(bodies.map(({ max_tokens }) => max_tokens)).toEqual([0, 1, 1]);
  await expect(teacher.score([Int32Array.of(5, 6)], ask(2), NEVER)).rejects.toThrow("0 likely tokens where 2");
  await server.stop(true);
});
