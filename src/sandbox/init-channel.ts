/** What a sandbox is driven through, frames to its init and back, and word of its end; and who made it. */

import type { SandboxSnapshot } from "../core/ports.ts";
import type { Reply } from "./launcher-client.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import type { OpCode } from "./protocol.ts";

export interface InitChannel {
  /** The isolation level reached. */
  readonly isolation: string;
  /** Whether what carries the frames still runs. */
  readonly alive: boolean;
  /** Where the sandbox's connections go through; `undefined` where there can be none. */
  readonly socketFolder: string | undefined;
  /** Sends one message and waits for its reply, at most `timeoutMs`; `what` names the wait. */
  request(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): Promise<Reply>;
  /** Like `request`, and returns the request's number for `cancel`. */
  start(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): [number, Promise<Reply>];
  cancel(request: number, sandbox: number): void;
  /** Calls `listener` once when the sandbox ends by itself. */
  onGone(sandbox: number, listener: (reason: string) => void): void;
  /** Rejects what is still waited for from a sandbox that is being destroyed. */
  forget(sandbox: number): void;
  /** Ends the sandbox; of one that is gone already, nothing. */
  destroy(sandbox: number): Promise<void>;
  /** Stops the clocks of what is waited for from a sandbox that is paused, until `goOn`. */
  holdOff(sandbox: number): void;
  goOn(sandbox: number): void;
}

/** Who made the sandbox: told when it ends, asked when a snapshot is wanted. */
export interface SandboxOwner {
  /** Called once. */
  onDestroyed(sandbox: NativeSandbox): void;
  takeSnapshot(sandbox: NativeSandbox, shell: boolean): Promise<SandboxSnapshot>;
}
