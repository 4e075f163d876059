/** One open sequence of an engine: answers as they come, heard token by token. */

import { firstTokens, listen } from "../core/generation.ts";
import type { Generation, PolicySession, SamplingOptions, TokenListener } from "../core/ports.ts";
import type { EngineClient } from "./engine-client.ts";
import { type EngineProcess, type Pending, post } from "./engine-process.ts";

export class EngineSession implements PolicySession {
  readonly #client: EngineClient;
  readonly #engine: EngineProcess;
  readonly #sequence: number;
  #closed = false;

  constructor(client: EngineClient, engine: EngineProcess, sequence: number) {
    this.#client = client;
    this.#engine = engine;
    this.#sequence = sequence;
  }

  async generate(
    context: Int32Array,
    sampling: SamplingOptions,
    signal?: AbortSignal,
    onToken?: TokenListener,
  ): Promise<Generation> {
    signal?.throwIfAborted();
    const cancel = () => post(this.#engine, { type: "cancel", sequence: this.#sequence });
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      if (onToken === undefined) return await this.#answer(context, sampling, undefined);
      return await this.#heardAnswer(context, sampling, onToken);
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  #answer(context: Int32Array, sampling: SamplingOptions, onToken: Pending["onToken"]): Promise<Generation> {
    return this.#client.generate(this.#engine, this.#sequence, context, sampling, onToken);
  }

  /** The engine may be some tokens ahead when the listener ends the answer: it is told to forget them, and so do we. */
  async #heardAnswer(context: Int32Array, sampling: SamplingOptions, onToken: TokenListener): Promise<Generation> {
    let heard = 0;
    let end: number | undefined;
    const cut = (count: number) => {
      end = count;
      post(this.#engine, { type: "cut", sequence: this.#sequence, count });
    };
    const generation = await this.#answer(context, sampling, (id, logprob) => {
      if (end !== undefined) return;
      heard++;
      if (onToken(id, logprob)) cut(heard);
    });
    if (end === undefined) {
      const count = listen(onToken, generation.ids, generation.logprobs, heard);
      if (count === undefined) return generation;
      cut(count);
      return firstTokens(generation, count);
    }
    return firstTokens(generation, end);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    post(this.#engine, { type: "close", sequence: this.#sequence });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
