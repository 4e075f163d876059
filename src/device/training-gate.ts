/** The training side of an engine as its loop sees it: it stands still between two micro-operations until told to go on. */

export class TrainingGate {
  readonly #onReady: () => void;
  #go: (() => void) | undefined;

  /** @param onReady is called when training could go on. */
  constructor(onReady: () => void) {
    this.#onReady = onReady;
  }

  /** Called by training: resolves when it may do its next micro-operation. */
  readonly pause = (): Promise<void> =>
    new Promise((resolve) => {
      this.#go = resolve;
      this.#onReady();
    });

  /** Whether it waits to be told to go on; not while it waits for other engines. */
  get ready(): boolean {
    return this.#go !== undefined;
  }

  /** Lets training compute until it pauses, waits for others, or is done; resolves then. */
  async go(): Promise<void> {
    const go = this.#go;
    this.#go = undefined;
    go?.();
    // A micro-operation has no waits, so it is over when everything that is due now has run; messages come in, too.
    await new Promise((resolve) => setImmediate(resolve));
  }
}
