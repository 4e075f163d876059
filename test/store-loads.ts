/** The loads under which the store's writer is killed: those of `ale bench store`. */

export interface StoreLoad {
  /** Episodes of a step, in two calls at once. */
  readonly episodes: number;
  /** Turns of an episode. */
  readonly turns: number;
  /** Sampled; as many again are shown. */
  readonly tokensPerTurn: number;
  /** As fast as possible when omitted. */
  readonly turnsPerSecond?: number;
}

export const LOADS: { readonly small: StoreLoad; readonly large: StoreLoad } = {
  small: { episodes: 256, turns: 4, tokensPerTurn: 12 },
  large: { episodes: 32, turns: 4, tokensPerTurn: 1000, turnsPerSecond: 1000 },
};
