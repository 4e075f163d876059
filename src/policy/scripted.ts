/**
 * Policies without a model: they speak through the same port, so the same loop runs them. The scripted one plays given
 * commands (an oracle, or nothing at all); the random one samples tokens uniformly.
 */

import { firstTokens, listen } from "../core/generation.ts";
import type { Generation, Policy, PolicySession, SamplingOptions, Tokenizer, TokenListener } from "../core/ports.ts";
import { hashKey, uniformAt } from "../core/rng.ts";

/** A sure thing: log-probability 0 for each token. */
function certain(ids: Int32Array, stop: Generation["stop"]): Generation {
  const zeros = new Float32Array(ids.length);
  const versions = new Int32Array(ids.length);
  return { ids, logprobs: zeros, logprobsT1: zeros, versions, kvOldest: versions, stop };
}

abstract class SimpleSession implements PolicySession {
  abstract answer(sampling: SamplingOptions): Generation;

  async generate(
    _context: Int32Array,
    sampling: SamplingOptions,
    signal?: AbortSignal,
    onToken?: TokenListener,
  ): Promise<Generation> {
    signal?.throwIfAborted();
    const answer = this.answer(sampling);
    const count = onToken && listen(onToken, answer.ids, answer.logprobs);
    return count === undefined ? answer : firstTokens(answer, count);
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

class ScriptedSession extends SimpleSession {
  readonly #tokenizer: Tokenizer;
  readonly #commands: readonly string[];
  #next = 0;

  constructor(tokenizer: Tokenizer, commands: readonly string[]) {
    super();
    this.#tokenizer = tokenizer;
    this.#commands = commands;
  }

  override answer(): Generation {
    const command = this.#commands[this.#next++];
    if (command === undefined) return certain(Int32Array.of(this.#tokenizer.special("<done>")), "stop");
    return certain(Int32Array.of(...this.#tokenizer.encode(command), this.#tokenizer.special("<obs>")), "stop");
  }
}

/** Plays `commands`, one per turn, then says it is done; an empty script is the no-op agent. */
export class ScriptedPolicy implements Policy {
  readonly version = 0;
  readonly #tokenizer: Tokenizer;
  readonly #commands: readonly string[];

  constructor(tokenizer: Tokenizer, commands: readonly string[]) {
    this.#tokenizer = tokenizer;
    this.#commands = commands;
  }

  async open(): Promise<PolicySession> {
    return new ScriptedSession(this.#tokenizer, this.#commands);
  }
}

class RandomSession extends SimpleSession {
  readonly #vocabularySize: number;
  readonly #key: readonly [number, number];
  #position = 0;

  constructor(vocabularySize: number, noiseKey: string) {
    super();
    this.#vocabularySize = vocabularySize;
    this.#key = hashKey(noiseKey);
  }

  override answer(sampling: SamplingOptions): Generation {
    const ids: number[] = [];
    let stop: Generation["stop"] = "length";
    while (ids.length < sampling.maxTokens) {
      const id = Math.floor(uniformAt(this.#key, this.#position++) * this.#vocabularySize);
      ids.push(id);
      if (sampling.stopIds.includes(id)) {
        stop = "stop";
        break;
      }
    }
    const logprobs = new Float32Array(ids.length).fill(-Math.log(this.#vocabularySize));
    const versions = new Int32Array(ids.length);
    return { ids: Int32Array.from(ids), logprobs, logprobsT1: logprobs, versions, kvOldest: versions, stop };
  }
}

/** Samples every token uniformly; the same noise key gives the same answers. */
export class RandomPolicy implements Policy {
  readonly version = 0;
  readonly #vocabularySize: number;

  constructor(vocabularySize: number) {
    this.#vocabularySize = vocabularySize;
  }

  async open(noiseKey: string): Promise<PolicySession> {
    return new RandomSession(this.#vocabularySize, noiseKey);
  }
}
