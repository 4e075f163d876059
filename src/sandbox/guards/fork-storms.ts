/** Fork storms: the process limit was hit, or nearly so at two looks one after the other. */

/** Sandboxes that may have fewer processes reach any share of them with a pipeline. */
const LEAST_LIMIT = 16;

export class ProcessWatch {
  #before = false;

  /** @param limit processes that the sandbox may have. */
  look(processes: number, limit: number, share: number): string | undefined {
    const near = limit >= LEAST_LIMIT && processes >= share * limit;
    const found = near && this.#before ? `${processes} of at most ${limit} processes` : undefined;
    this.#before = near;
    return found;
  }
}

/** @param hits times that the kernel refused a process. */
export function forkStorm(hits: number, limit: number): string | undefined {
  return hits > 0 ? `the limit of ${limit} processes was hit` : undefined;
}
