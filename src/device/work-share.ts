/** Which of an engine's two queues goes next: generation or training (docs/adr/0014). */

/** Default of `engine.trainShare`. */
export const DEFAULT_TRAIN_SHARE = 0.5;

export type Work = "generate" | "train";

/**
 * While both have work, training gets a fixed share of the time and generation the rest, counted in the time that
 * micro-operations took; whoever is alone gets everything, and that is not counted against it. What one is owed is at most
 * its share of the other's latest micro-operation: neither waits longer, and nobody saves up while it has nothing to do.
 */
export class WorkShare {
  readonly #trainShare: number;
  /** Milliseconds that generation is owed; training, where negative. */
  #owed = 0;
  #contended = false;

  /** @param trainShare between 0 and 1, both excluded. */
  constructor(trainShare: number) {
    this.#trainShare = trainShare;
  }

  /** The one to serve with a micro-operation; `undefined` when neither has work. Generation goes first. */
  next({ generate, train }: Readonly<Record<Work, boolean>>): Work | undefined {
    this.#contended = generate && train;
    if (this.#contended) return this.#owed >= 0 ? "generate" : "train";
    if (generate) return "generate";
    return train ? "train" : undefined;
  }

  /** Tells how long the micro-operation took that `next` chose. */
  spent(work: Work, ms: number): void {
    if (!this.#contended) return;
    this.#owed += work === "train" ? ms * (1 - this.#trainShare) : -ms * this.#trainShare;
  }
}
