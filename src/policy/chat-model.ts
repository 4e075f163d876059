/** A model that is given messages and answers with text: a server elsewhere, an engine of ours, or a script. */

import type { ChatMessage } from "../tokens/chat-template.ts";

export interface ChatRequest {
  readonly messages: readonly ChatMessage[];
  /** In the model's own tokens. */
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP?: number | undefined;
  /** Names the sampling noise where the model can be held to it. */
  readonly seed?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Who waits, where waits are listed. */
  readonly who?: string | undefined;
}

export interface ChatAnswer {
  readonly text: string;
  /** `length`: it was cut off, or the conversation no longer fits. */
  readonly finish: "stop" | "length";
  /** As the model counts; 0 where it does not say. */
  readonly promptTokens: number;
  readonly answerTokens: number;
}

export interface ChatModel {
  /** As a user names it. */
  readonly name: string;
  /** @throws AleError("remote" | "config" | "engine") when there is no answer; the signal's reason when aborted. */
  complete(request: ChatRequest): Promise<ChatAnswer>;
}

export interface ChatUsage {
  requests: number;
  promptTokens: number;
  answerTokens: number;
}

/** Counts what a model is asked. */
export class MeteredModel implements ChatModel {
  readonly usage: ChatUsage = { requests: 0, promptTokens: 0, answerTokens: 0 };
  readonly #model: ChatModel;

  constructor(model: ChatModel) {
    this.#model = model;
  }

  get name(): string {
    return this.#model.name;
  }

  async complete(request: ChatRequest): Promise<ChatAnswer> {
    this.usage.requests++;
    const answer = await this.#model.complete(request);
    this.usage.promptTokens += answer.promptTokens;
    this.usage.answerTokens += answer.answerTokens;
    return answer;
  }
}
