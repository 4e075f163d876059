/** What the service is asked for and answers. */

import type { Alert } from "../../core/alerts.ts";
import { AleError } from "../../core/errors.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import type { NetworkCap } from "../network/network-cap.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";
import type { Resources } from "./admission.ts";
import type { ArchiveStore } from "./archives.ts";
import type { Clock } from "./clock.ts";
import type { ManagedSandbox, TimeToLive } from "./managed-sandbox.ts";

export interface SandboxServiceOptions {
  readonly provider: NativeSandboxProvider;
  readonly capacity: Resources;
  /** Of sandboxes that do not say. */
  readonly ttl?: TimeToLive;
  readonly clock?: Clock;
  /** Where stopped sandboxes can be archived; omitted: nowhere. */
  readonly archives?: ArchiveStore | undefined;
  /** Sandboxes kept ready of each environment that was asked for lately. Default 0. */
  readonly warm?: number;
  /** The most of the network that any sandbox may ask for; omitted: anything. */
  readonly networkCap?: NetworkCap | undefined;
  /** Called with whatever the guards raise. */
  readonly onAlert?: (alert: Alert, sandbox: ManagedSandbox) => void;
}

export interface CreateRequest {
  readonly environment: EnvironmentSpec;
  /** Name of the snapshot it starts from; of its environment, the limits are taken. */
  readonly snapshot?: string | undefined;
  /** Omitted: a random one. Letters, digits, `.`, `_` and `-`. */
  readonly id?: string | undefined;
  readonly ttl?: Partial<TimeToLive> | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Whether its tests and rewards are ours, so that writing where they lie is an alert. Default false. */
  readonly isGraded?: boolean | undefined;
  /** The longest it waits for room. Default one minute. */
  readonly queueMs?: number | undefined;
  /** Done in a new sandbox before it is ready. */
  readonly prepare?: ((sandbox: NativeSandbox) => Promise<void>) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** 30 minutes without use, a day in all, an hour stopped. */
export const DEFAULT_TTL: TimeToLive = { idleMs: 1_800_000, totalMs: 86_400_000, stoppedMs: 3_600_000 };

/** A sandbox that was forked, and what the fork could not take along. */
export interface ForkResult {
  readonly sandbox: ManagedSandbox;
  /** Processes of the original, which ended there, too. */
  readonly lostProcesses: number;
  /** Shells that were running a command, and start afresh. */
  readonly freshShells: readonly string[];
}

/** There is no sandbox of that name. */
export class UnknownSandbox extends AleError {
  constructor(id: string) {
    super("usage", `there is no sandbox ${JSON.stringify(id)}`, { hint: "ale sandbox ps lists them" });
    this.name = "UnknownSandbox";
  }
}

/** Without what is undefined, so that defaults stay. */
export function defined<T extends object>(value: T | undefined): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(value ?? {}).filter(([, content]) => content !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}
