/** A timer that fires this much too late was held up: its process was stopped, not busy. Milliseconds. */
const HELD_UP_MS = 2000;

/**
 * Calls `expire` after `ms` milliseconds in which this process could run. A limit that passed while it was stopped (Ctrl-Z, a
 * debugger, a machine that slept) begins anew, once: what it waits for was stopped as well, or its answer is there unread.
 */
export class TimeLimit {
  readonly #ms: number;
  readonly #expire: () => void;
  #dueAt = 0;
  #timer: Timer | undefined;
  #isRenewed = false;

  constructor(ms: number, expire: () => void) {
    this.#ms = ms;
    this.#expire = expire;
    this.#start();
  }

  /** Milliseconds until it expires. */
  get left(): number {
    return Math.max(0, this.#dueAt - performance.now());
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #start(): void {
    this.#dueAt = performance.now() + this.#ms;
    this.#timer = setTimeout(() => this.#fire(), this.#ms);
  }

  #fire(): void {
    const isHeldUp = performance.now() - this.#dueAt > HELD_UP_MS;
    if (isHeldUp && !this.#isRenewed) {
      this.#isRenewed = true;
      this.#start();
    } else this.#expire();
  }
}
