/** Many small runs of one graph, shared out among the session's threads. */

import type { PreparedCall, Session, Values } from "../runtime/session.ts";

/** What one run reads and writes. No run may write what another reads or writes. */
export interface CallBinding {
  readonly feeds: Values;
  readonly fetches: Values;
}

/** Runs of a lane before lanes wait for one another: waking a thread costs as much as half a small run. */
const RUNS_PER_WAIT = 32;

/**
 * Runs of the graph on all bindings; each call makes a few in every lane. Each run works alone on its thread: dividing the
 * work between runs costs a wait per call, dividing every operator costs one per operator.
 */
export function prepareLanes(
  session: Session,
  bindings: readonly CallBinding[],
  lanes: number,
): readonly PreparedCall[] {
  const calls: PreparedCall[] = [];
  const most = lanes * RUNS_PER_WAIT;
  for (let begin = 0; begin < bindings.length; begin += most) {
    const group = bindings.slice(begin, begin + most);
    const ownCount = Math.ceil(group.length / lanes);
    const own = group.slice(0, ownCount).map(({ feeds, fetches }) => session.prepare(feeds, fetches));
    const background = group.slice(ownCount).map(({ feeds, fetches }) => session.prepareBackground(feeds, fetches));
    calls.push(() => {
      for (const run of background) run.start();
      try {
        for (const run of own) run();
      } finally {
        for (const run of background) run.wait();
      }
    });
  }
  return calls;
}
