/** Many small runs of one graph, shared out among the session's threads. */

import type { PreparedCall, Session, Values } from "../runtime/session.ts";

/** What one run reads and writes. No run may write what another reads or writes. */
export interface CallBinding {
  readonly feeds: Values;
  readonly fetches: Values;
}

/**
 * Runs of the graph on all bindings, in their order; each call runs as many as there are lanes. Each run works alone on its
 * thread: dividing the work between runs costs one wait per run, dividing every operator costs one per operator.
 */
export function prepareLanes(
  session: Session,
  bindings: readonly CallBinding[],
  lanes: number,
): readonly PreparedCall[] {
  const groups: PreparedCall[] = [];
  for (let begin = 0; begin < bindings.length; begin += lanes) {
    const [first, ...others] = bindings.slice(begin, begin + lanes);
    if (first === undefined) break;
    const own = session.prepare(first.feeds, first.fetches);
    const background = others.map(({ feeds, fetches }) => session.prepareBackground(feeds, fetches));
    groups.push(() => {
      for (const call of background) call.start();
      try {
        own();
      } finally {
        for (const call of background) call.wait();
      }
    });
  }
  return groups;
}
