/**
 * Training cut into micro-operations: a micro-batch, or some layers of one, or a part of an optimizer step. Between two of
 * them the engine may do something else; what is computed does not depend on it.
 */

/** Work that does a micro-operation with each `next`. */
export type MicroOperations<T> = Generator<void, T, void>;

/** Awaited between two micro-operations; resolves when training goes on, rejects when it shall not. */
export type Pause = () => Promise<void>;

/** Calls shorter than this together are one micro-operation: about what a pause may cost a decode step. */
const SHORT_MS = 5;

/** Does all of the work at once. */
export function finish<T>(work: MicroOperations<T>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

/** Does the work with a pause after each micro-operation but the last. */
export async function interleave<T>(work: MicroOperations<T>, pause: Pause): Promise<T> {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
    await pause();
  }
}

/**
 * Makes the calls, in their order, as micro-operations.
 * @param began `performance.now()` of when the first of them began. @param onPause is told when each but the last began.
 * @returns when the last began, which is still under way: it is the caller's to record and to end.
 */
export function* paced(
  calls: readonly (() => void)[],
  onPause: (began: number) => void,
  began = performance.now(),
): MicroOperations<number> {
  let since = began;
  for (const [i, call] of calls.entries()) {
    call();
    if (i + 1 === calls.length || performance.now() - since < SHORT_MS) continue;
    onPause(since);
    yield;
    since = performance.now();
  }
  return since;
}
