/** Measures for what share of the time nothing is at work. Times are those of `performance.now()`. */
export class IdleClock {
  #busy = false;
  #idleMs = 0;
  /** Since when `#busy` is what it is, or was counted last. */
  #since: number;
  #takenAt: number;

  constructor(now = performance.now()) {
    this.#since = now;
    this.#takenAt = now;
  }

  /** From now on something is at work, or nothing. */
  set(busy: boolean, now = performance.now()): void {
    if (!this.#busy) this.#idleMs += now - this.#since;
    this.#since = now;
    this.#busy = busy;
  }

  /** The idle share since the last call, from 0 to 1. */
  take(now = performance.now()): number {
    this.set(this.#busy, now);
    const share = this.#idleMs / Math.max(Number.MIN_VALUE, now - this.#takenAt);
    this.#idleMs = 0;
    this.#takenAt = now;
    return Math.min(1, share);
  }
}
