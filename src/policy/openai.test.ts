import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import type { AleError } from "../core/errors.ts";
import { listWaits } from "../core/waits.ts";
import type { ChatRequest } from "./chat-model.ts";
import { OpenAiModel, type OpenAiSettings } from "./openai.ts";

type Reply = (request: Request, body: Record<string, unknown>) => Response | Promise<Response>;

let replies: Reply[] = [];
let asked: { readonly body: Record<string, unknown>; readonly key: string | null }[] = [];
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  async fetch(request) {
    const body = (await request.json()) as Record<string, unknown>;
    asked.push({ body, key: request.headers.get("authorization") });
    const reply = replies.length > 1 ? replies.shift() : replies[0];
    return (reply as Reply)(request, body);
  },
});
afterAll(() => server.stop(true));
beforeEach(() => {
  replies = [];
  asked = [];
});

const answer = (content: string | null, finish_reason = "stop"): Reply => {
  return () =>
    Response.json({
      choices: [{ message: { role: "assistant", content }, finish_reason }],
      usage: { prompt_tokens: 7, completion_tokens: 3 },
    });
};
const refusal =
  (status: number, message: string, headers: Record<string, string> = {}): Reply =>
  () =>
    Response.json({ error: { message } }, { status, headers });
const stream =
  (...events: readonly (string | object)[]): Reply =>
  () =>
    new Response(
      events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join(""),
      { headers: { "Content-Type": "text/event-stream" } },
    );
const piece = (content: string, finish_reason: string | null = null) => ({
  choices: [{ delta: { content }, finish_reason }],
});
/** Begins to answer and then says nothing more. */
const hang: Reply = () =>
  new Response(
    new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode('{"choices"')) }),
    {
      headers: { "Content-Type": "application/json" },
    },
  );

function modelWith(settings: Partial<OpenAiSettings> = {}): OpenAiModel {
  const base = { url: `http://127.0.0.1:${server.port}/v1/`, model: "m", apiKeyEnv: "TEST_KEY" };
  const how = { timeoutMs: 5000, retries: 2, stream: false, omit: [], firstPauseMs: 1 };
  return new OpenAiModel({ ...base, ...how, ...settings }, { run: (work) => work() });
}

const QUESTION: ChatRequest = {
  messages: [{ role: "user", content: "1 + 1?" }],
  maxTokens: 16,
  temperature: 0.5,
  topP: 0.9,
  seed: 5,
};

async function failureOf(model: OpenAiModel, request: ChatRequest = QUESTION): Promise<AleError> {
  return model.complete(request).then(
    () => {
      throw new Error("it answered");
    },
    (error) => error as AleError,
  );
}

test("asks as the API wants it, and sends the key only where there is one", async () => {
  replies = [answer("2")];
  expect(await modelWith({ apiKey: "k" }).complete(QUESTION)).toEqual({
    ...{ text: "2", finish: "stop", promptTokens: 7, answerTokens: 3 },
  });
  await modelWith({ maxTokens: 99, omit: ["seed"] }).complete({ ...QUESTION, topP: 1 });
  expect(asked).toEqual([
    {
      key: "Bearer k",
      body: {
        ...{ model: "m", messages: QUESTION.messages, max_tokens: 16, temperature: 0.5, top_p: 0.9, seed: 5 },
        stream: false,
      },
    },
    { key: null, body: { model: "m", messages: QUESTION.messages, max_tokens: 99, temperature: 0.5, stream: false } },
  ]);
});

test("what was cut off says so", async () => {
  replies = [answer("1 + 1 is", "length")];
  expect(await modelWith().complete(QUESTION)).toMatchObject({ text: "1 + 1 is", finish: "length" });
  replies = [refusal(400, "This model's maximum context length is 8192 tokens")];
  expect(await modelWith().complete(QUESTION)).toMatchObject({ text: "", finish: "length" });
});

test("a stream is put together, whatever its pieces", async () => {
  const usage = { choices: [], usage: { prompt_tokens: 4, completion_tokens: 2 } };
  replies = [stream(piece("1 "), piece("+ ü"), piece("", "stop"), usage, "[DONE]")];
  const whole = { text: "1 + ü", finish: "stop", promptTokens: 4, answerTokens: 2 } as const;
  expect(await modelWith({ stream: true }).complete(QUESTION)).toEqual(whole);
  expect(asked[0]?.body).toMatchObject({ stream: true });
});

describe("what may pass is tried again", () => {
  test.each<[string, Reply]>([
    ["too many requests", refusal(429, "slow down")],
    ["a server in trouble", refusal(503, "loading")],
    ["no JSON", () => new Response("<html>", { headers: { "Content-Type": "application/json" } })],
    ["no completion", () => Response.json({ choices: [] })],
    ["an error with status 200", () => Response.json({ error: { message: "overloaded" } })],
    ["a stream that breaks off", stream(piece("1 +"))],
    ["an error inside a stream", stream(piece("1 +"), { error: { message: "out of memory" } })],
  ])("%s", async (_name, failing) => {
    replies = [failing, answer("2")];
    expect(await modelWith().complete(QUESTION)).toMatchObject({ text: "2" });
    expect(asked).toHaveLength(2);
    replies = [failing];
    const error = await failureOf(modelWith());
    expect(error).toMatchObject({ code: "remote", exitCode: 1 });
    expect(error.message).toContain("gave no answer in 3 tries");
    expect(asked).toHaveLength(5);
  });

  test("the server may say for how long to wait", async () => {
    replies = [refusal(429, "slow down", { "Retry-After": "0.1" }), answer("2")];
    const started = performance.now();
    await modelWith().complete(QUESTION);
    expect(performance.now() - started).toBeGreaterThanOrEqual(95);
  });

  test("a limit by another name", async () => {
    replies = [refusal(400, "Use 'max_completion_tokens' instead."), answer("2")];
    expect(await modelWith({ retries: 0 }).complete(QUESTION)).toMatchObject({ text: "2" });
    expect(asked[1]?.body).toMatchObject({ max_completion_tokens: 16 });
  });
});

test.each<[number, Reply, string, string]>([
  [401, refusal(401, "no key"), "refuses the key (401): no key", "set TEST_KEY to a key of that server"],
  [404, refusal(404, "no such model"), "has no model m", "/models lists the models there are"],
  [422, refusal(422, "\u001b[31mbad\u001b[0m"), "does not accept the request (422): [31mbad [0m", "correct [remote]"],
  [429, refusal(429, "insufficient_quota"), "does not accept the request (429)", "correct [remote]"],
  [302, () => Response.redirect("http://127.0.0.1:1/"), "leads elsewhere (302)", "give the address"],
])("%d is final and explained", async (_status, reply, message, hint) => {
  replies = [reply];
  const error = await failureOf(modelWith());
  expect(error).toMatchObject({ code: "config", exitCode: 2 });
  expect(error.message).toContain(message);
  expect(error.hint).toContain(hint);
  expect(asked).toHaveLength(1);
});

test("silence has an end and a name, and an abort ends it at once", async () => {
  replies = [hang];
  const error = await failureOf(modelWith({ timeoutMs: 50, retries: 1 }));
  expect(error.message).toContain("gave no answer in 2 tries: it did not answer within 0.05 s");
  const abort = new AbortController();
  const model = modelWith();
  const asking = model.complete({ ...QUESTION, signal: abort.signal, who: "episode/1" }).catch((reason) => reason);
  await Bun.sleep(5);
  expect(listWaits()).toMatchObject([{ who: "episode/1", forWhat: `an answer of ${model.name}` }]);
  abort.abort(new Error("enough"));
  expect(String(await asking)).toContain("enough");
  expect(listWaits()).toEqual([]);
});

test("nobody there", async () => {
  const error = await failureOf(modelWith({ url: "http://127.0.0.1:1/v1", retries: 0 }));
  expect(error.message).toContain("gave no answer at the only try: it cannot be reached");
});
