/**
 * Ctrl-C, SIGTERM and SIGHUP. Work that saves step by step finishes its step after the first Ctrl-C and stops at once after
 * the second; other work stops at once. Whoever sends another signal than Ctrl-C's does not wait. A Ctrl-C while the work is
 * stopping says so, and the next one ends the process.
 */

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const SHOW_CURSOR = "\x1b[?25h";

export interface Interrupt extends Disposable {
  /** Aborted by the first signal. */
  readonly stop: AbortSignal;
  /** Aborted when the work is to stop at once. */
  readonly signal: AbortSignal;
}

/**
 * Listens until disposed.
 * @param byStep whether the work finishes a step first. @param say shows a message. @param exit ends the process (130).
 */
export function listenForInterrupt(
  byStep: boolean,
  say: (message: string) => void,
  exit: (code: number) => void = forceExit,
): Interrupt {
  const stop = new AbortController();
  const now = new AbortController();
  let explained = false;
  const onSignal = (name: (typeof SIGNALS)[number]): void => {
    const waits = byStep && name === "SIGINT" && !stop.signal.aborted;
    stop.abort();
    if (waits) say("stopping after this step; Ctrl-C again stops at once, without it");
    else if (!now.signal.aborted) {
      say("stopping: saving and cleaning up …");
      now.abort();
    } else if (!explained) {
      explained = true;
      say("still saving and cleaning up; press Ctrl-C once more to stop at once");
    } else exit(130);
  };
  const handlers = SIGNALS.map((name) => [name, () => onSignal(name)] as const);
  for (const [name, handler] of handlers) process.on(name, handler);
  return {
    stop: stop.signal,
    signal: now.signal,
    [Symbol.dispose]: () => {
      for (const [name, handler] of handlers) process.off(name, handler);
    },
  };
}

function forceExit(code: number): void {
  if (process.stdout.isTTY) process.stdout.write(SHOW_CURSOR);
  process.stderr.write(
    "\nstopped at once; what was not saved is lost, ale resume continues from the last checkpoint\n",
  );
  process.exit(code);
}
