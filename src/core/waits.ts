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

/** Waits for the same, as one line. */
export interface WaitGroup extends Wait {
  /** How many wait; `who`, `forWhat` and `since` are those of the one that waits longest, `deadline` is the nearest. */
  readonly count: number;
}

/** What differs in numbers only is the same; the longest waiting first. */
export function groupWaits(all: readonly Wait[]): WaitGroup[] {
  const groups = new Map<string, WaitGroup>();
  for (const wait of [...all].sort((a, b) => a.since - b.since)) {
    const key = wait.forWhat.replace(/\d+/g, "#");
    const group = groups.get(key);
    const nearest = Math.min(...[group?.deadline, wait.deadline].map((time) => time ?? Number.POSITIVE_INFINITY));
    const deadline = Number.isFinite(nearest) ? nearest : null;
    groups.set(key, { ...(group ?? wait), count: (group?.count ?? 0) + 1, deadline });
  }
  return [...groups.values()];
}
