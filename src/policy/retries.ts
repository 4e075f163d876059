/** Trying again what failed for a reason that may pass, with growing pauses of which half is random. */

import { AleError, errorMessage } from "../core/errors.ts";
import { beginWait } from "../core/waits.ts";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;

/** One try that did not succeed, and may when it is repeated. */
export class FailedTry extends Error {
  /** How long the server asks to wait. */
  readonly retryAfterMs: number;

  constructor(message: string, retryAfterMs = 0) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

export interface RetrySettings {
  /** Tries after the first one. */
  readonly retries: number;
  /** Before the second try; doubled each time. Default 500. */
  readonly firstPauseMs?: number | undefined;
}

export interface RetryContext {
  /** Whose answer is waited for. */
  readonly name: string;
  readonly who: string;
  readonly signal?: AbortSignal | undefined;
  /** What is thrown after the last try. */
  readonly giveUp: (failed: FailedTry, tries: number) => AleError;
}

/** Tries `work` until it succeeds. @throws what `giveUp` makes, an AleError of `work` at once, the signal's reason. */
export async function persist<T>(work: () => Promise<T>, settings: RetrySettings, context: RetryContext): Promise<T> {
  const { retries, firstPauseMs = FIRST_PAUSE_MS } = settings;
  const { name, signal, giveUp } = context;
  for (let attempt = 0; ; attempt++) {
    signal?.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof AleError) throw error;
      const failed = error instanceof FailedTry ? error : new FailedTry(errorMessage(error));
      if (attempt >= retries) throw giveUp(failed, attempt + 1);
      const longest = Math.min(LONGEST_PAUSE_MS, firstPauseMs * 2 ** attempt);
      // Half of the pause is random, so that requests that failed together do not come back together.
      const pause = Math.max(failed.retryAfterMs, longest * (0.5 + Math.random() / 2));
      await sleep(pause, `${name}: ${failed.message}`, context);
    }
  }
}

/** Rejects with the signal's reason when it is aborted. */
async function sleep(ms: number, forWhat: string, { who, signal }: RetryContext): Promise<void> {
  const endWait = beginWait(who, forWhat, ms);
  await new Promise<void>((resolve) => {
    const onEnd = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onEnd);
      resolve();
    };
    const timer = setTimeout(onEnd, ms);
    signal?.addEventListener("abort", onEnd, { once: true });
    if (signal?.aborted) onEnd();
  });
  endWait();
  signal?.throwIfAborted();
}
