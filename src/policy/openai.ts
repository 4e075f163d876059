/**
 * A model behind OpenAI's chat-completions API (https://platform.openai.com/docs/api-reference/chat), as vLLM, SGLang,
 * llama.cpp, Ollama and many hosts speak it. Every request has a deadline; what may pass is tried again.
 */

import { AleError, errorMessage } from "../core/errors.ts";
import { beginWait } from "../core/waits.ts";
import type { ChatAnswer, ChatModel, ChatRequest } from "./chat-model.ts";
import { BadAnswer, errorText, readCompletion, StreamReader } from "./openai-answer.ts";
import { FailedTry, persist } from "./retries.ts";

export interface OpenAiSettings {
  /** Up to `/v1`. */
  readonly url: string;
  readonly model: string;
  readonly apiKey?: string | undefined;
  /** Where the key comes from, for messages. */
  readonly apiKeyEnv: string;
  /** Of one try. */
  readonly timeoutMs: number;
  readonly retries: number;
  /** Bounds `ChatRequest.maxTokens`, or takes its place where it is larger. */
  readonly maxTokens?: number | undefined;
  readonly stream: boolean;
  /** Parameters that are left out of every request. */
  readonly omit: readonly string[];
  /** Before the second try; doubled each time. Default 500. */
  readonly firstPauseMs?: number;
}

/** Bounds requests in flight. */
interface Gate {
  run<T>(work: () => Promise<T>): Promise<T>;
}

const MAX_ANSWER_BYTES = 32 << 20;
const MAX_ERROR_BYTES = 64 << 10;
/** Longest wait that a server may ask for. */
const LONGEST_RETRY_AFTER_MS = 120_000;

export class OpenAiModel implements ChatModel {
  readonly name: string;
  readonly #settings: OpenAiSettings;
  readonly #gate: Gate;
  /** Newer models of OpenAI take another name for the limit. */
  #tokensKey: "max_tokens" | "max_completion_tokens" = "max_tokens";

  constructor(settings: OpenAiSettings, gate: Gate) {
    this.#settings = { ...settings, url: settings.url.replace(/\/+$/, "") };
    this.#gate = gate;
    this.name = `openai:${this.#settings.url}#${settings.model}`;
  }

  /** @throws AleError("config") for what trying again does not mend, AleError("remote") after the last try. */
  complete(request: ChatRequest): Promise<ChatAnswer> {
    return this.#gate.run(() => this.#persist(request));
  }

  #persist(request: ChatRequest): Promise<ChatAnswer> {
    const { signal, who = "control" } = request;
    const giveUp = this.#giveUp.bind(this);
    return persist(() => this.#try(request), this.#settings, { name: this.name, who, signal, giveUp });
  }

  #giveUp(failed: FailedTry, tries: number): AleError {
    const times = tries === 1 ? "at the only try" : `in ${tries} tries`;
    return new AleError("remote", `${this.name} gave no answer ${times}: ${failed.message}`, {
      hint: "see whether the server is up; [remote] timeout and retries say how long it is waited for",
      cause: failed,
    });
  }

  async #try(request: ChatRequest): Promise<ChatAnswer> {
    const { timeoutMs } = this.#settings;
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), timeoutMs);
    const endWait = beginWait(request.who ?? "control", `an answer of ${this.name}`, timeoutMs);
    const signal = request.signal === undefined ? limit.signal : AbortSignal.any([request.signal, limit.signal]);
    // Aborting ends the request; should it not, nobody waits for it any longer.
    const ended = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(new FailedTry("it was given up")), { once: true });
    });
    try {
      return await Promise.race([this.#send(request, signal), ended]);
    } catch (error) {
      if (limit.signal.aborted) throw new FailedTry(`it did not answer within ${timeoutMs / 1000} s`);
      throw error;
    } finally {
      clearTimeout(timer);
      endWait();
    }
  }

  async #send(request: ChatRequest, signal: AbortSignal): Promise<ChatAnswer> {
    const { url, apiKey } = this.#settings;
    const headers = new Headers({ "Content-Type": "application/json", Accept: "application/json, text/event-stream" });
    if (apiKey !== undefined) headers.set("Authorization", `Bearer ${apiKey}`);
    const body = JSON.stringify(this.#body(request));
    const init = { method: "POST", headers, body, signal, redirect: "manual" } as const;
    const response = await fetch(`${url}/chat/completions`, init).catch((error) => {
      throw new FailedTry(`it cannot be reached: ${errorMessage(error)}`);
    });
    if (!response.ok) return this.#refused(response, request, signal);
    const isStream = response.headers.get("content-type")?.includes("text/event-stream") ?? false;
    if (!isStream) return readCompletion(await readAll(response, MAX_ANSWER_BYTES));
    const reader = new StreamReader();
    for await (const piece of pieces(response, MAX_ANSWER_BYTES)) reader.push(piece);
    return reader.end();
  }

  #body({ messages, maxTokens, temperature, topP, seed }: ChatRequest): Record<string, unknown> {
    const { model, stream, omit } = this.#settings;
    const limit = this.#settings.maxTokens ?? maxTokens;
    const parameters = {
      temperature,
      ...(topP !== undefined && topP < 1 && { top_p: topP }),
      ...(seed !== undefined && { seed }),
      ...(stream && { stream_options: { include_usage: true } }),
    };
    return {
      model,
      messages: messages.map(({ role, content }) => ({ role, content })),
      [this.#tokensKey]: limit,
      stream,
      ...Object.fromEntries(Object.entries(parameters).filter(([name]) => !omit.includes(name))),
    };
  }

  /** What a status other than 2xx means: an answer that was cut off, another try, or the end. */
  async #refused(response: Response, request: ChatRequest, signal: AbortSignal): Promise<ChatAnswer> {
    const { status, headers } = response;
    const text = await readAll(response, MAX_ERROR_BYTES).catch(() => "");
    const said = errorText(tryParse(text));
    if (status === 400 && /max_completion_tokens/.test(text) && this.#tokensKey === "max_tokens") {
      this.#tokensKey = "max_completion_tokens";
      return this.#send(request, signal);
    }
    if (status === 400 && /context[_ ]length|maximum context|context window|prompt is too long/i.test(text)) {
      return { text: "", finish: "length", promptTokens: 0, answerTokens: 0 };
    }
    const isPassing = status === 408 || status === 409 || status === 425 || status === 429 || status >= 500;
    if (isPassing && !text.includes("insufficient_quota")) {
      throw new FailedTry(`it answered ${status}: ${said}`, retryAfter(headers));
    }
    throw this.#explain(status, said);
  }

  #explain(status: number, said: string): AleError {
    const { url, model, apiKey, apiKeyEnv } = this.#settings;
    const fail = (message: string, hint: string) => new AleError("config", `${message}: ${said}`, { hint });
    if (status === 401 || status === 403) {
      const hint = apiKey === undefined ? `set ${apiKeyEnv} to a key of that server` : `check the key in ${apiKeyEnv}`;
      return fail(`${url} refuses the key (${status})`, hint);
    }
    if (status === 404) {
      const hint = `${url}/models lists the models there are; the address ends where /chat/completions follows, as in http://127.0.0.1:8000/v1`;
      return fail(`${url} has no model ${model}, or is no chat-completions server (404)`, hint);
    }
    if (status >= 300 && status < 400)
      return fail(`${url} leads elsewhere (${status})`, "give the address it leads to");
    return fail(
      `${url} does not accept the request (${status})`,
      "correct [remote]; parameters that a server does not take are named in remote.omit",
    );
  }
}

/** Milliseconds that the server asks to wait, by seconds or by a date. */
function retryAfter(headers: Headers): number {
  const text = headers.get("retry-after");
  if (text === null) return 0;
  const ms = /^\d+(\.\d+)?$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(ms) ? Math.min(LONGEST_RETRY_AFTER_MS, Math.max(0, ms)) : 0;
}

function tryParse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

async function* pieces(response: Response, maxBytes: number): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > maxBytes) throw new BadAnswer(`sent more than ${maxBytes} bytes`);
    yield decoder.decode(chunk, { stream: true });
  }
}

async function readAll(response: Response, maxBytes: number): Promise<string> {
  let text = "";
  for await (const piece of pieces(response, maxBytes)) text += piece;
  return text;
}
