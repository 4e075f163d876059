/** The token record of an episode while it grows. */

import type { Generation } from "../core/ports.ts";
import type { TokenRecord } from "../core/types.ts";

/** One element of each array of a `TokenRecord`. */
interface TranscriptToken {
  readonly id: number;
  readonly mask: 0 | 1;
  readonly logprob: number;
  readonly logprobT1: number;
  readonly version: number;
  readonly kvOldest: number;
  readonly turn: number;
}

/** Grows a token record turn by turn. */
export class TranscriptBuilder {
  readonly #ids: number[] = [];
  readonly #mask: number[] = [];
  readonly #logprobs: number[] = [];
  readonly #logprobsT1: number[] = [];
  readonly #versions: number[] = [];
  readonly #kvOldest: number[] = [];
  readonly #turnIds: number[] = [];

  get length(): number {
    return this.#ids.length;
  }

  /** Tokens the policy was shown. */
  addContext(ids: Int32Array, version: number): void {
    for (const id of ids) {
      this.#add({ id, mask: 0, logprob: 0, logprobT1: 0, version, kvOldest: version, turn: -1 });
    }
  }

  /** Tokens the policy sampled in `turn`. */
  addGeneration(generation: Generation, turn: number): void {
    generation.ids.forEach((id, t) => {
      this.#add({
        id,
        mask: 1,
        logprob: generation.logprobs[t] as number,
        logprobT1: generation.logprobsT1[t] as number,
        version: generation.versions[t] as number,
        kvOldest: generation.kvOldest[t] as number,
        turn,
      });
    });
  }

  build(): TokenRecord {
    return {
      ids: Int32Array.from(this.#ids),
      mask: Uint8Array.from(this.#mask),
      logprobs: Float32Array.from(this.#logprobs),
      logprobsT1: Float32Array.from(this.#logprobsT1),
      versions: Int32Array.from(this.#versions),
      kvOldest: Int32Array.from(this.#kvOldest),
      turnIds: Int32Array.from(this.#turnIds),
    };
  }

  #add(token: TranscriptToken): void {
    this.#ids.push(token.id);
    this.#mask.push(token.mask);
    this.#logprobs.push(token.logprob);
    this.#logprobsT1.push(token.logprobT1);
    this.#versions.push(token.version);
    this.#kvOldest.push(token.kvOldest);
    this.#turnIds.push(token.turn);
  }
}
