/** A chat model as a policy: a session is a conversation. Its format is `agent/conversation-format.ts`. */

import { firstTokens, listen } from "../core/generation.ts";
import type { Generation, Policy, PolicySession, SamplingOptions, TokenListener } from "../core/ports.ts";
import { hashKey } from "../core/rng.ts";
import type { ChatMessage } from "../tokens/chat-template.ts";
import { decodeBytes, decodeMessages, encodeAnswer } from "../tokens/conversation-bytes.ts";
import type { ChatModel } from "./chat-model.ts";

/** Weights that are not ours have no version. */
const NO_VERSION = -1;

/**
 * Its tokens are bytes of ours, not the model's, and it tells no log-probabilities: they are NaN, so that what it wrote can
 * be kept and imitated as text, but never passes for something a policy of ours sampled.
 */
export class ChatPolicy implements Policy {
  readonly version = NO_VERSION;
  readonly #model: ChatModel;

  constructor(model: ChatModel) {
    this.#model = model;
  }

  async open(noiseKey: string): Promise<PolicySession> {
    return new ChatSession(this.#model, noiseKey);
  }
}

class ChatSession implements PolicySession {
  readonly #model: ChatModel;
  readonly #noiseKey: string;
  readonly #messages: ChatMessage[] = [];

  constructor(model: ChatModel, noiseKey: string) {
    this.#model = model;
    this.#noiseKey = noiseKey;
  }

  async generate(
    context: Int32Array,
    sampling: SamplingOptions,
    signal?: AbortSignal,
    onToken?: TokenListener,
  ): Promise<Generation> {
    this.#messages.push(...decodeMessages(context));
    const { text, finish } = await this.#model.complete({
      messages: this.#messages,
      maxTokens: sampling.maxTokens,
      temperature: sampling.greedy ? 0 : sampling.temperature,
      topP: sampling.topP,
      seed: sampling.seed ?? hashKey(`${this.#noiseKey}/${this.#messages.length}`)[0] >>> 1,
      signal,
      who: this.#noiseKey,
    });
    const answer = untold(encodeAnswer(text, finish === "stop"), finish);
    const count = onToken && listen(onToken, answer.ids, answer.logprobs);
    const heard = count === undefined ? answer : firstTokens(answer, count);
    this.#messages.push({ role: "assistant", content: decodeBytes(heard.ids) });
    return heard;
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

function untold(ids: Int32Array, stop: Generation["stop"]): Generation {
  const logprobs = new Float32Array(ids.length).fill(Number.NaN);
  const versions = new Int32Array(ids.length).fill(NO_VERSION);
  return { ids, logprobs, logprobsT1: logprobs, versions, kvOldest: versions, stop };
}
