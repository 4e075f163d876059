/** Simulated time: what is to happen when, earliest first; of what is due at the same time, what was asked for first. */

interface Entry {
  readonly at: number;
  readonly order: number;
  readonly happen: () => void;
}

export class Clock {
  /** Milliseconds since the simulation began. */
  now = 0;
  /** A binary heap. */
  readonly #entries: Entry[] = [];
  #order = 0;

  after(ms: number, happen: () => void): void {
    const heap = this.#entries;
    heap.push({ at: this.now + Math.max(0, ms), order: this.#order++, happen });
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1;
      if (!this.#isBefore(i, parent)) break;
      this.#swap(i, parent);
      i = parent;
    }
  }

  /** Lets time pass until `isOver`. Returns false when nothing is left to happen before that. */
  run(isOver: () => boolean): boolean {
    while (!isOver()) {
      const next = this.#take();
      if (next === undefined) return false;
      this.now = next.at;
      next.happen();
    }
    return true;
  }

  #take(): Entry | undefined {
    const heap = this.#entries;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    heap[0] = last;
    for (let i = 0; ; ) {
      let least = i;
      for (const child of [2 * i + 1, 2 * i + 2])
        if (child < heap.length && this.#isBefore(child, least)) least = child;
      if (least === i) return first;
      this.#swap(i, least);
      i = least;
    }
  }

  #isBefore(a: number, b: number): boolean {
    const [x, y] = [this.#entries[a] as Entry, this.#entries[b] as Entry];
    return x.at < y.at || (x.at === y.at && x.order < y.order);
  }

  #swap(a: number, b: number): void {
    const heap = this.#entries;
    [heap[a], heap[b]] = [heap[b] as Entry, heap[a] as Entry];
  }
}
