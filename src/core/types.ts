/**
 * The nouns of Ale. No I/O here; every layer may import this file.
 *
 * Vocabulary: a *task* is rendered for one *seed*; an *episode* is one attempt at it and its record is the
 * *trajectory*; a *turn* is one model answer plus the observation after it; a *group* is the set of episodes of one
 * task and seed; a *weight version* counts published optimizer steps.
 */

import type { Alert } from "./alerts.ts";
import type { IsolationStep } from "./isolation.ts";

/** Which pool of a task family an instance draws from. The pools are disjoint. */
export type Split = "train" | "dev" | "heldout";
export const SPLITS: readonly Split[] = ["train", "dev", "heldout"];

/** A file to place in a sandbox. `path` is relative to the folder it is uploaded to; `mode` is the permission bits. */
export interface SandboxFile {
  readonly path: string;
  readonly content: Uint8Array;
  readonly mode: number;
}

/** One way of solving (or, for imperfect demonstrations, of failing) a task: the commands, one per turn. */
export interface Demonstration {
  /** `expert` demonstrations score 1, `mistake` ones are typical failures and score 0. */
  readonly kind: "expert" | "mistake";
  /** Relative frequency among demonstrations of the same kind. */
  readonly weight: number;
  readonly commands: readonly string[];
}

/** In the place of a profile's name where an image is named. */
export const IMAGE_PROFILE = "image";

/** Limits a task asks for; the sandbox enforces each by the strongest means the machine has. */
export interface EnvironmentSpec {
  /** Name of a sandbox profile in `sandboxes/`. Never defaulted: a task names the profile it was made for. */
  readonly profile: string;
  /** Name of an image, which is the root file system then; of the profile nothing is used. */
  readonly image?: string | undefined;
  /** Absolute path inside the sandbox; the working directory, and what `clean` grading carries over. */
  readonly workdir: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly pids: number;
  /** What the sandbox may reach; nothing when omitted. */
  readonly network?: NetworkSpec;
  /** The weakest isolation it may have; omitted: whatever the experiment allows. */
  readonly leastIsolation?: IsolationStep;
}

/** `allowlist`: what is listed; `public`: every public host besides. Either through Ale's proxy, HTTP and TLS only. */
export type NetworkMode = "none" | "allowlist" | "public";

export interface NetworkSpec {
  readonly mode: NetworkMode;
  /**
   * `host`, `*.host` (names below it), an address, or a range (`10.1.0.0/16`, `[2001:db8::]/32`); with `:port`, else ports 80
   * and 443. Addresses that are not public are reached only where an address or range in this list says so.
   */
  readonly allow: readonly string[];
  readonly limits?: Partial<NetworkLimits>;
}

/** Of one sandbox, over its whole life but for `connections`. */
export interface NetworkLimits {
  /** At once. */
  readonly connections: number;
  readonly totalConnections: number;
  /** Bytes that leave the sandbox. */
  readonly bytesOut: number;
  readonly bytesIn: number;
}

/** One connection of a sandbox, or the attempt at one. */
export interface ConnectionRecord {
  /**
   * `proxy`: out, through the proxy; `dns`: a name that was asked for, and the address inside that stands for it; `endpoint`: to a
   * handler on this machine; `inbound`: from outside to a port of the sandbox.
   */
  readonly kind: "proxy" | "dns" | "endpoint" | "inbound";
  /** Milliseconds since 1970 when it began. */
  readonly at: number;
  readonly ms: number;
  /** As the sandbox named it; empty where it named none. */
  readonly host: string;
  readonly port: number;
  /** What was connected to; `null` where nothing was. */
  readonly address: string | null;
  readonly verdict: "allowed" | "denied" | "failed";
  /** Why it was denied, failed or ended early; empty otherwise. */
  readonly reason: string;
  /** Bytes that left the sandbox, and that came to it. */
  readonly bytesOut: number;
  readonly bytesIn: number;
}

/** A Harbor-form task, loaded or rendered from a family. */
export interface Task {
  /** `suite/family/split/seed` for families, `suite/name` for plain folders; unique within a run. */
  readonly id: string;
  readonly suite: string;
  readonly family: string;
  readonly split: Split;
  readonly seed: number;
  readonly instruction: string;
  readonly environment: EnvironmentSpec;
  /** What the tests may reach; nothing when omitted. `environment.network` is the agent's. */
  readonly verifierNetwork?: NetworkSpec;
  /** Files of the working directory at the start of an episode. */
  readonly files: readonly SandboxFile[];
  /** Contents of `tests/`; placed at `/tests` after the agent is gone. */
  readonly tests: readonly SandboxFile[];
  /** Contents of `solution/`; `solve.sh` is the oracle. Empty when the task has none. */
  readonly solution: readonly SandboxFile[];
  readonly demonstrations: readonly Demonstration[];
  /** Wall-clock limits in seconds. */
  readonly timeouts: { readonly command: number; readonly agent: number; readonly verifier: number };
}

/** Why an episode ended. Every member is a row in the metrics. */
export type StopReason =
  | "done" // the policy said it was finished
  | "turns" // turn limit reached
  | "length" // token limit of a command or of the episode reached
  | "format" // the policy produced a token that is not allowed where it stands
  | "timeout" // the wall-clock limit of the episode passed
  | "command_timeout" // one command passed its limit
  | "output_limit" // a command flooded its output
  | "memory" // the sandbox hit its memory limit
  | "pids" // the sandbox hit its process limit
  | "disk" // the sandbox's disk was full
  | "shell_died" // the session's shell is gone
  | "guard" // a guard stopped the sandbox
  | "sandbox_error" // the sandbox failed for a reason of ours
  | "engine_error" // generation failed
  | "grader_error" // the verifier failed or gave no usable reward
  | "cancelled";

/** Stop reasons that say nothing about the policy. */
export const MACHINE_FAULTS: ReadonlySet<StopReason> = new Set(["sandbox_error", "engine_error", "grader_error"]);

/** How an episode was graded (DESIGN D7). */
export type GradingMode = "clean" | "stopped" | "live";

/**
 * Tokens of one trajectory. All arrays have the same length T; element t is about token t.
 * `logprobs` is under the distribution that was sampled from, `logprobsT1` at temperature 1 without truncation;
 * both are 0 where `mask` is 0. `turnIds` is -1 where `mask` is 0.
 */
export interface TokenRecord {
  readonly ids: Int32Array;
  /** 1 for tokens the policy sampled, 0 for prompt and observation. */
  readonly mask: Uint8Array;
  readonly logprobs: Float32Array;
  readonly logprobsT1: Float32Array;
  /** Weight version that sampled the token. */
  readonly versions: Int32Array;
  /**
   * Oldest weight version of any cache entry the token attended to; equal to `versions` where the cache was written by the
   * weights that sampled, and where `mask` is 0.
   */
  readonly kvOldest: Int32Array;
  readonly turnIds: Int32Array;
}

/** A program that was run in a sandbox. */
export interface ExecRecord {
  readonly kind: "exec";
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly ms: number;
  /** `null`: that of the turn. */
  readonly command: string | null;
  readonly exitCode: number | null;
}

/** A program or a connection of an episode. */
export type AuditEntry = (ExecRecord | ConnectionRecord) & {
  readonly phase: "agent" | "verifier";
  /** During which turn it began; `null`: during none. */
  readonly turn: number | null;
  readonly sandbox: string;
};

/** One model answer and the observation after it. Times are milliseconds since the episode began. */
export interface Turn {
  readonly index: number;
  readonly command: string;
  readonly observation: string;
  readonly exitCode: number | null;
  readonly startedMs: number;
  readonly generatedMs: number;
  readonly observedMs: number;
}

/** Tests of a verifier that passed, of all that ran. */
export interface TestCounts {
  readonly passed: number;
  readonly total: number;
}

/** The record of one episode. A failed episode is data (`stopReason`, `error`), never an exception. */
export interface Trajectory {
  readonly episodeId: string;
  readonly groupId: string;
  readonly taskId: string;
  readonly family: string;
  readonly split: Split;
  readonly seed: number;
  /** Index within the group. */
  readonly member: number;
  /** Present where the episode did not begin at the task's start. */
  readonly fork?: ForkPoint;
  readonly tokens: TokenRecord;
  readonly turns: readonly Turn[];
  readonly reward: number;
  /** What the verifier wrote besides, by its keys. */
  readonly scores?: Readonly<Record<string, number>>;
  /** Left out where the verifier told none, or nobody asked. */
  readonly tests?: TestCounts;
  readonly stopReason: StopReason;
  readonly error?: string;
  /** What the guards raised; left out where that is nothing. */
  readonly alerts?: readonly Alert[];
  readonly isolation: string;
  readonly grading: GradingMode;
  /** What was run, and every connection; left out where nobody recorded it. */
  readonly audit?: readonly AuditEntry[];
  readonly startedAt: number;
  readonly phases: PhaseTimes;
  /** Where `phases` come from, in order; left out where nobody recorded them. */
  readonly spans?: readonly PhaseSpan[];
}

/** The state an episode began in: an expert's, before its chunk number `anchor` (from 1). */
export interface ForkPoint {
  readonly anchor: number;
  /** Chunks the expert needed. */
  readonly chunks: number;
  /** Id of the episode that was the expert, or `oracle`. */
  readonly expert: string;
}

/** Milliseconds spent per phase of an episode. */
export interface PhaseTimes {
  readonly reset: number;
  readonly generate: number;
  readonly tool: number;
  readonly grade: number;
}

/** A stretch of an episode; milliseconds since 1970 with fractions. */
export interface PhaseSpan {
  readonly phase: keyof PhaseTimes;
  readonly begin: number;
  readonly end: number;
}

/** Episodes of one task and seed. */
export interface Group {
  readonly groupId: string;
  readonly taskId: string;
  readonly trajectories: readonly Trajectory[];
}

/** A named number at a training step; `step` 0 is before the first update. */
export interface Metric {
  readonly step: number;
  readonly name: string;
  readonly value: number;
}
