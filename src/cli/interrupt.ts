/**
 * Ctrl-C and SIGTERM. The first asks the work to save and stop, the second says that this is under way, the third ends
 * the process at once.
 */

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const SHOW_CURSOR = "\x1b[?25h";

export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

/** Listens until disposed. `say` shows a message; `exit` ends the process (130) on the third signal. */
export function listenForInterrupt(
  say: (message: string) => void,
  exit: (code: number) => void = forceExit,
): Interrupt {
  const controller = new AbortController();
  let count = 0;
  const onSignal = (): void => {
    count++;
    if (count === 1) {
      say("stopping: saving and cleaning up …");
      controller.abort();
    } else if (count === 2) {
      say("still saving and cleaning up; press Ctrl-C once more to stop at once");
    } else {
      exit(130);
    }
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const name of SIGNALS) process.off(name, onSignal);
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
