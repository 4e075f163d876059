/** Runs long work under a view and an interrupt handler: what `run`, `resume`, `sft`, `eval` and `tasks check` share. */

import { AleError } from "../core/errors.ts";
import { EventHub } from "../core/events.ts";
import { createPanelState, type PanelHistory, type PanelState } from "../tui/panel-state.ts";
import { painterFor } from "../tui/style.ts";
import { isTerminal, openView, type ViewMode } from "../tui/view.ts";
import type { CommandLine, Output } from "./command-line.ts";
import { type Interrupt, listenForInterrupt } from "./interrupt.ts";

export interface WatchOptions {
  readonly cli: CommandLine;
  readonly mode: ViewMode;
  /** Where progress goes; the result of a command goes to stdout in any case. */
  readonly stream: Output;
  /** Settings that differ from their defaults, as `key=value`. */
  readonly changed?: readonly string[];
  readonly parityLimit?: number;
  readonly history?: PanelHistory;
  /** The work saves step by step, and finishes its step after the first Ctrl-C. */
  readonly byStep?: boolean;
}

/** Panel on a terminal, else plain lines. */
export function viewModeFor(cli: CommandLine, stream: Output): ViewMode {
  return isTerminal(stream) && cli.env.TERM !== "dumb" ? "panel" : "plain";
}

/**
 * Shows `work` while it runs and closes the view before the result is printed.
 * @throws AleError("interrupted") when the work gave up because of Ctrl-C.
 */
export async function watch<T>(
  options: WatchOptions,
  work: (hub: EventHub, interrupt: Pick<Interrupt, "stop" | "signal">) => Promise<T>,
): Promise<{ result: T; state: PanelState }> {
  const { cli, mode, stream, changed, parityLimit, history } = options;
  const hub = new EventHub();
  const state = createPanelState({
    startedAt: Date.now(),
    ...(changed === undefined ? {} : { changed }),
    ...(parityLimit === undefined ? {} : { parityLimit }),
    ...(history === undefined ? {} : { history }),
  });
  using view = openView(hub, state, { mode, stream, paint: painterFor(stream, cli.env) });
  using interrupt = listenForInterrupt(options.byStep ?? false, (message) => view.say(message));
  try {
    const result = await work(hub, interrupt);
    if (state.status === "running") state.status = "finished";
    return { result, state };
  } catch (error) {
    if (state.status === "running") state.status = interrupt.stop.aborted ? "interrupted" : "failed";
    if (!interrupt.stop.aborted || error instanceof AleError) throw error;
    throw new AleError("interrupted", "stopped before there was anything to save", { cause: error });
  }
}
