/** Lets work begin when there is room for it. */
export interface Gate {
  run<T>(work: () => Promise<T>): Promise<T>;
}

/** Work passes the first gate, then the second. */
export function both(first: Gate, second: Gate): Gate {
  return { run: (work) => first.run(() => second.run(work)) };
}

/** Bounded concurrency with a first-in first-out queue. */
export class Limiter implements Gate {
  readonly #limit: number;
  readonly #waiting: (() => void)[] = [];
  #active = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Runs `work` when one of the `limit` places is free. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#active >= this.#limit) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#active++;
    try {
      return await work();
    } finally {
      // The place passes straight to the next in line, so nobody can slip in between.
      const next = this.#waiting.shift();
      if (next === undefined) this.#active--;
      else next();
    }
  }
}
