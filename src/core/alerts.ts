/** What the sandbox guards raise when an agent does what no task asks for (`sandbox/guards`). */

export const ALERT_KINDS = ["tunnel", "scan", "mining", "protected_write", "fork_storm", "output_flood"] as const;
export type AlertKind = (typeof ALERT_KINDS)[number];

/** `stop`: the sandbox was stopped, and its episode ended; `alert`: nothing was done but to tell. */
export type AlertAction = "alert" | "stop";

export interface Alert {
  readonly kind: AlertKind;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Turn of the episode that was running, or the last one; null outside of an episode's turns. */
  readonly turn: number | null;
  /** What was seen: printable, on one line, at most 300 characters. An agent may have written parts of it. */
  readonly evidence: string;
  readonly action: AlertAction;
}
