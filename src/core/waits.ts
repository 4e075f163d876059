/** Who waits for what: a wait is listed here while it lasts, so that a hang has a name (`ale doctor --run`). */

export interface Wait {
  /** The one that waits: an episode, a part of the control process. */
  readonly who: string;
  readonly forWhat: string;
  /** Milliseconds since 1970, like `deadline`. */
  readonly since: number;
  /** When the wait ends by itself; null where it consists of waits that have deadlines of their own. */
  readonly deadline: number | null;
}

const waits = new Set<Wait>();

/** Lists a wait until the returned function is called. `ms` from now it ends by itself. */
export function beginWait(who: string, forWhat: string, ms?: number): () => void {
  const since = Date.now();
  const wait = { who, forWhat, since, deadline: ms === undefined ? null : since + ms };
  waits.add(wait);
  return () => {
    waits.delete(wait);
  };
}

/** All waits of this process, the longest first. */
export function listWaits(): Wait[] {
  return [...waits].sort((a, b) => a.since - b.since);
}
