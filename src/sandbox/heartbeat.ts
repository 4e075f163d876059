/**
 * Asks the launcher again and again whether it is at work. One that has ended is told by the end of its output; one that was
 * stopped, or is stuck, keeps its pipes open and says nothing, and whatever is waited for from it would run into deadlines
 * one by one.
 */

import type { Connection } from "./launcher-client.ts";
import { Op } from "./protocol.ts";

export interface HeartbeatOptions {
  /** Pause between an answer and the next question, in milliseconds. */
  readonly everyMs: number;
  /** How long an answer may take: far longer than a busy machine lets a process wait. */
  readonly withinMs: number;
}

export const HEARTBEAT: HeartbeatOptions = { everyMs: 3_000, withinMs: 15_000 };

/** Until `launcher` has ended; ends it, saying why, when it does not answer in time. Time in which this process stood still does not count. */
export async function watchLauncher(launcher: Connection, { everyMs, withinMs }: HeartbeatOptions): Promise<void> {
  const question = `a sign of life of the sandbox launcher, process ${launcher.pid}`;
  while (launcher.alive) {
    await new Promise((resolve) => setTimeout(resolve, everyMs).unref());
    try {
      await launcher.request(Op.ping, 0, new Uint8Array(0), question, withinMs);
    } catch {
      // Of one that has ended, or ends by itself meanwhile, it changes nothing.
      launcher.kill(`it gave no sign of life for ${withinMs / 1000} s`);
    }
  }
}
