/**
 * A teacher behind a completions API (`POST URL/completions`) that says how likely the tokens of a prompt are. Prompts are token
 * ids, so nothing is tokenised on the way. Two ways to ask:
 *
 * - `echo` with `logprobs`, of OpenAI's older API, SGLang and vLLM; the likeliest tokens are understood only where the server
 *   names them by id (`return_tokens_as_token_ids`, vLLM);
 * - `prompt_logprobs` of vLLM (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html), a map from ids at each place.
 */

import { z } from "zod";
import { AleError, deadline, errorMessage } from "../core/errors.ts";
import type { ScoreOptions, Teacher, TeacherScores } from "../core/teacher.ts";
import { FailedTry, persist } from "./retries.ts";

export interface RemoteTeacherSettings {
  /** Up to `/v1`. */
  readonly url: string;
  readonly model: string;
  readonly apiKey?: string | undefined;
  readonly protocol: "echo" | "prompt_logprobs";
  /** Of one try. */
  readonly timeoutMs: number;
  readonly retries: number;
  /** Before the second try; doubled each time. Default 500. */
  readonly firstPauseMs?: number;
}

/** Bounds requests in flight. */
interface Gate {
  run<T>(work: () => Promise<T>): Promise<T>;
}

interface SequenceScores {
  readonly logprobs: Float32Array;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
}

const LogprobSchema = z.number().nullable();
const EchoSchema = z.object({
  choices: z.tuple([
    z.object({
      logprobs: z.object({
        token_logprobs: z.array(LogprobSchema),
        top_logprobs: z.array(z.record(z.string(), z.number()).nullable()).nullish(),
      }),
    }),
  ]),
});
const PromptLogprobsSchema = z.object({
  choices: z.tuple([
    z.object({ prompt_logprobs: z.array(z.record(z.string(), z.object({ logprob: z.number() })).nullable()) }),
  ]),
});

export class RemoteTeacher implements Teacher {
  readonly name: string;
  readonly #settings: RemoteTeacherSettings;
  readonly #gate: Gate;
  /** Servers that must answer something get one token to write. */
  #maxTokens: number;

  constructor(settings: RemoteTeacherSettings, gate: Gate) {
    this.#settings = { ...settings, url: settings.url.replace(/\/+$/, "") };
    this.#gate = gate;
    this.#maxTokens = settings.protocol === "echo" ? 0 : 1;
    this.name = `${this.#settings.url}#${settings.model}`;
  }

  /**
   * @throws AleError("config") for another temperature than 1, and for what trying again does not mend;
   * AleError("remote") after the last try.
   */
  async score(sequences: readonly Int32Array[], options: ScoreOptions, signal: AbortSignal): Promise<TeacherScores> {
    if (options.temperature !== 1) {
      throw new AleError("config", `${this.name} tells probabilities at temperature 1, not ${options.temperature}`, {
        hint: "set rollout.temperature = 1",
      });
    }
    const rows = await Promise.all(
      sequences.map((sequence) => this.#gate.run(() => this.#persist(sequence, options, signal))),
    );
    const logprobs = rows.map((row) => row.logprobs);
    if (options.top === 0) return { logprobs };
    const ids = rows.map(({ topIds }) => topIds);
    return { logprobs, top: { count: options.top, ids, logprobs: rows.map(({ topLogprobs }) => topLogprobs) } };
  }

  async stop(): Promise<void> {}

  #persist(sequence: Int32Array, options: ScoreOptions, signal: AbortSignal): Promise<SequenceScores> {
    const work = async () => this.#read(await this.#ask(sequence, options, signal), sequence, options);
    const giveUp = (failed: FailedTry, tries: number) =>
      new AleError("remote", `${this.name} did not score a sequence in ${tries} tries: ${failed.message}`, {
        hint: "see whether the server is up; server.timeout and server.retries say how long it is waited for",
        cause: failed,
      });
    return persist(work, this.#settings, { name: this.name, who: "teacher", signal, giveUp });
  }

  async #ask(sequence: Int32Array, options: ScoreOptions, signal: AbortSignal): Promise<unknown> {
    const { timeoutMs, apiKey, url } = this.#settings;
    const headers = new Headers({ "Content-Type": "application/json" });
    if (apiKey !== undefined) headers.set("Authorization", `Bearer ${apiKey}`);
    const limit = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
    const body = JSON.stringify(this.#body(sequence, options));
    const exchange = async () => {
      const response = await fetch(`${url}/completions`, { method: "POST", headers, body, signal: limit });
      return { status: response.status, text: await response.text() };
    };
    const { status, text } = await deadline(`scores of ${this.name}`, timeoutMs, exchange(), "remote", "teacher").catch(
      (error) => {
        throw new FailedTry(`it cannot be reached: ${errorMessage(error)}`);
      },
    );
    if (status === 200) return parse(text);
    if (status === 408 || status === 429 || status >= 500) throw new FailedTry(`it answered ${status}: ${brief(text)}`);
    if (status === 400 && this.#maxTokens === 0 && /max_(new_)?tokens/.test(text)) {
      this.#maxTokens = 1;
      return this.#ask(sequence, options, signal);
    }
    throw new AleError("config", `${this.name} does not accept the request (${status}): ${brief(text)}`, {
      hint: "the address ends where /completions follows, as in http://127.0.0.1:8000/v1; check server.model and server.protocol",
    });
  }

  #body(sequence: Int32Array, { top }: ScoreOptions): Record<string, unknown> {
    const { model, protocol } = this.#settings;
    const common = { model, prompt: Array.from(sequence), max_tokens: this.#maxTokens, temperature: 1 };
    if (protocol === "prompt_logprobs") return { ...common, prompt_logprobs: top };
    return { ...common, echo: true, logprobs: Math.max(1, top), ...(top > 0 && { return_tokens_as_token_ids: true }) };
  }

  #read(json: unknown, sequence: Int32Array, options: ScoreOptions): SequenceScores {
    const places = this.#settings.protocol === "echo" ? this.#readEcho(json) : this.#readPromptLogprobs(json, sequence);
    if (places.length < sequence.length) {
      throw this.#unusable(`log-probabilities of ${places.length} of ${sequence.length} tokens`);
    }
    const { top } = options;
    const scores: SequenceScores = {
      logprobs: new Float32Array(sequence.length),
      topIds: new Int32Array(sequence.length * top),
      topLogprobs: new Float32Array(sequence.length * top),
    };
    for (let t = 1; t < sequence.length; t++) {
      const { logprob, likeliest } = places[t] as Place;
      if (logprob === null) throw this.#unusable(`no log-probability of token ${t}`);
      scores.logprobs[t] = logprob;
      if (top > 0) this.#place(scores, t, likeliest, options);
    }
    return scores;
  }

  #place({ topIds, topLogprobs }: SequenceScores, t: number, likeliest: Likeliest, options: ScoreOptions): void {
    const { top, vocabularySize } = options;
    const best = likeliest.filter(([id]) => id < vocabularySize).toSorted((a, b) => b[1] - a[1] || a[0] - b[0]);
    if (best.length < top) throw this.#unusable(`${best.length} likely tokens where ${top} are asked for`);
    topIds.set(
      best.slice(0, top).map(([id]) => id),
      t * top,
    );
    topLogprobs.set(
      best.slice(0, top).map(([, logprob]) => logprob),
      t * top,
    );
  }

  #readEcho(json: unknown): readonly Place[] {
    const { success, data } = EchoSchema.safeParse(json);
    if (!success) throw this.#unusable("no choices[0].logprobs.token_logprobs");
    const { token_logprobs, top_logprobs } = data.choices[0].logprobs;
    return token_logprobs.map((logprob, t) => {
      const named = Object.entries(top_logprobs?.[t] ?? {});
      const likeliest = named.flatMap(([name, value]): Likeliest => {
        const id = /^token_id:(\d+)$/.exec(name)?.[1];
        return id === undefined ? [] : [[Number(id), value]];
      });
      return { logprob, likeliest };
    });
  }

  #readPromptLogprobs(json: unknown, sequence: Int32Array): readonly Place[] {
    const { success, data } = PromptLogprobsSchema.safeParse(json);
    if (!success) throw this.#unusable("no choices[0].prompt_logprobs");
    return data.choices[0].prompt_logprobs.map((place, t) => {
      const likeliest = Object.entries(place ?? {}).map(([id, { logprob }]) => [Number(id), logprob] as const);
      return { logprob: place?.[String(sequence[t])]?.logprob ?? null, likeliest };
    });
  }

  #unusable(what: string): AleError {
    return new AleError("config", `${this.name} gave ${what}`, {
      hint: 'try the other server.protocol; topK needs "prompt_logprobs", and a server that allows as many',
    });
  }
}

type Likeliest = readonly (readonly [id: number, logprob: number])[];

interface Place {
  readonly logprob: number | null;
  readonly likeliest: Likeliest;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new FailedTry(`its answer is not JSON: ${brief(text)}`);
  }
}

function brief(text: string): string {
  return text.length > 300 ? `${text.slice(0, 300)} …` : text;
}
