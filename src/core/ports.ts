/** The seams between layers. Each port fits on a screen; `experiment/run.ts` is where implementations meet. */

import type { ConnectionRecord, EnvironmentSpec, NetworkSpec, SandboxFile } from "./types.ts";

/** What a command left behind. `output` is stdout and stderr in the order they were written, both ends kept. */
export interface CommandResult {
  /** Exact exit code, or 128 + signal; `null` when the command did not end by itself. */
  readonly exitCode: number | null;
  readonly output: Uint8Array;
  /** Bytes the command wrote, of which `output` may hold fewer. */
  readonly outputBytes: number;
  readonly truncated: boolean;
  readonly status: "exited" | "timeout" | "output_limit" | "shell_died";
  readonly ms: number;
}

export interface CommandOptions {
  readonly timeoutMs: number;
  /** Bytes of output to keep; the command is killed when it writes more than 64 times as many. */
  readonly maxOutputBytes: number;
  readonly signal?: AbortSignal;
}

/** Resource limits that were hit since the sandbox was made; each ends the episode with that stop reason. */
export interface LimitEvents {
  readonly memory: number;
  readonly pids: number;
  readonly disk: number;
}

/** A folder's contents on the way from one sandbox to another, as one opaque byte string. */
export type SandboxArchive = Uint8Array;

/**
 * One isolated machine: its own namespaces, root file system, processes and limits. Paths are inside the sandbox and are
 * resolved there, so no symlink leads out. Every method rejects with `AleError("sandbox", …)` when the sandbox is gone.
 */
export interface Sandbox extends AsyncDisposable {
  readonly id: string;
  /** The isolation level reached, e.g. `root+userns+cgroup1`; written on every trajectory. */
  readonly isolation: string;
  /** Places files below `folder`, creating parents. */
  upload(folder: string, files: readonly SandboxFile[]): Promise<void>;
  /** Runs a command in the persistent shell session: cwd and environment carry over. */
  run(command: string, options: CommandOptions): Promise<CommandResult>;
  /** Runs a program once, outside the session, with cwd `cwd`. */
  exec(argv: readonly string[], options: CommandOptions & { readonly cwd: string }): Promise<CommandResult>;
  /** Content of a regular file, or `null` where there is none. Refuses links, devices and files over `maxBytes`. */
  readFile(path: string, maxBytes: number): Promise<Uint8Array | null>;
  /** Ends every process but the sandbox's own init. */
  killAll(): Promise<void>;
  exportFolder(folder: string, maxBytes: number): Promise<SandboxArchive>;
  importFolder(folder: string, archive: SandboxArchive): Promise<void>;
  limitEvents(): Promise<LimitEvents>;
  /** Ways in and out; absent where a provider has none, which then refuses environments that ask for some. */
  readonly network?: SandboxNetwork;
  /**
   * Keeps what the files are now, at any size in a few milliseconds, for `SandboxProvider.fork`. Every process ends, and
   * this sandbox goes on with a new shell in the same folder with the same exported variables.
   */
  snapshot(): Promise<SandboxSnapshot>;
  /** Ends all processes and removes mounts, cgroups and folders. Safe to call twice. */
  destroy(): Promise<void>;
}

/** Where connections to a port inside a sandbox end up: a handler of requests, or a socket of this machine. */
export type EndpointTarget =
  | { readonly fetch: (request: Request) => Response | Promise<Response> }
  | { readonly unix: string }
  | { readonly host: string; readonly port: number };

export interface NetworkUsage {
  /** Bytes that left the sandbox, and that came to it; connections that are open included. */
  readonly bytesOut: number;
  readonly bytesIn: number;
  readonly connections: number;
  readonly denied: number;
}

/** The ways between a sandbox, whose network namespace is empty, and everything else. */
export interface SandboxNetwork {
  /** What the sandbox may reach now. */
  readonly spec: NetworkSpec;
  /** Changes that, from this moment on: connections through the proxy that are open end. @throws AleError("usage") for bad rules. */
  change(spec: NetworkSpec): Promise<void>;
  /** `127.0.0.1:port` in the sandbox leads to `target`, and nowhere else, until it is disposed of. */
  serve(port: number, target: EndpointTarget): Promise<AsyncDisposable>;
  /** Path of a unix socket of this machine each connection to which is one to `127.0.0.1:port` in the sandbox. */
  forward(port: number): Promise<string>;
  /** The newest thousand that have ended, the oldest first. */
  readonly connections: readonly ConnectionRecord[];
  readonly usage: NetworkUsage;
  /** Calls `listener` for each connection when it has ended, or was refused. */
  onConnection(listener: (record: ConnectionRecord) => void): void;
}

/** The files of a sandbox at one moment; any number of sandboxes can start from it. Disposing forgets it. */
export interface SandboxSnapshot extends AsyncDisposable {
  readonly id: string;
  /** Bytes of files it holds, without those of the snapshots it stands on. */
  readonly bytes: number;
  /** Processes besides the shell that ran and are not part of it. */
  readonly lostProcesses: number;
}

/** Sandboxes of one environment that are made before they are wanted. */
export interface WarmPoolStatistics {
  readonly environment: EnvironmentSpec;
  /** Whether they have their first shell running already. */
  readonly shell: boolean;
  /** Sandboxes the pool is to hold, holds, and is making. */
  readonly target: number;
  readonly ready: number;
  readonly making: number;
  /** Sandboxes that were handed out at once, and that were wanted while none was ready. */
  readonly claims: number;
  readonly misses: number;
  /** Attempts to fill it that failed. */
  readonly failures: number;
}

/** `restarts` so far; `reason`: how the process ended. */
export type RestartListener = (reason: string, restarts: number) => void;

export interface SandboxProvider extends AsyncDisposable {
  /** The isolation level this machine reaches with this provider. */
  readonly isolation: string;
  /** Hands out a fresh sandbox, from the warm pool where one waits for this environment. */
  create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<Sandbox>;
  /** A sandbox with the files, folder and exported variables of a snapshot; `/dev/shm` starts empty. */
  fork(snapshot: SandboxSnapshot, signal?: AbortSignal): Promise<Sandbox>;
  /** Keeps `count` sandboxes of this environment ready. */
  warm(environment: EnvironmentSpec, count: number): void;
  /** Where all sandboxes hang on one process: calls `listener` whenever that has ended and is replaced. One listener. */
  onRestart?(listener: RestartListener): void;
  /** Where the provider keeps some: the pools there are. */
  readonly warmPools?: readonly WarmPoolStatistics[];
  close(): Promise<void>;
}

/**
 * Settings of one sampled answer. They apply in the order of Hugging Face's logits processors: repetition penalty,
 * temperature, top-k, top-p, min-p. `greedy` takes the most likely token after the penalty and ignores what follows it;
 * its log-probabilities are those at temperature 1.
 */
export interface SamplingOptions {
  readonly temperature: number;
  readonly greedy: boolean;
  readonly maxTokens: number;
  /** Generation ends with one of these; it is part of the answer. */
  readonly stopIds: readonly number[];
  /** Only the k most likely tokens, of equally likely ones those with lower ids. 0 or omitted: all. */
  readonly topK?: number;
  /** Only the most likely tokens up to the first at which their probabilities reach p. 1 or omitted: all. */
  readonly topP?: number;
  /** Only tokens at least this share as likely as the most likely one. 0 or omitted: all. */
  readonly minP?: number;
  /**
   * Divides positive and multiplies negative logits of all tokens that stand in the sequence, prompt included (Keskar et
   * al., CTRL, arXiv 1909.05858). 1 or omitted: none.
   */
  readonly repetitionPenalty?: number;
  /** Names the sampling noise instead of the session's key: same seed and context, same answer. */
  readonly seed?: number;
  /** Report this many of the most likely tokens of the sampled distribution at each position, at most 20. */
  readonly topLogprobs?: number;
}

/** The most likely tokens at each position of an answer; element t · `count` + i is the i-th at position t. */
export interface TopLogprobs {
  readonly count: number;
  readonly ids: Int32Array;
  /** Under the distribution that was sampled from: −Infinity for a token that could not be sampled. */
  readonly logprobs: Float32Array;
}

/** A sampled answer; arrays have one element per token. */
export interface Generation {
  readonly ids: Int32Array;
  /** Under the distribution that was sampled from: after penalty, temperature and truncation. */
  readonly logprobs: Float32Array;
  /** Under the model as it is: temperature 1, no penalty, no truncation. */
  readonly logprobsT1: Float32Array;
  readonly versions: Int32Array;
  /** Oldest weight version of any cache entry that the token attended to. */
  readonly kvOldest: Int32Array;
  readonly stop: "stop" | "length" | "context";
  /** Present when `SamplingOptions.topLogprobs` asked for it. */
  readonly topLogprobs?: TopLogprobs;
}

/** Called with each token of an answer as it is sampled; `true` ends the answer with it (stop `"stop"`). */
export type TokenListener = (id: number, logprob: number) => boolean;

/** One growing token sequence held by a policy: the context of one episode. */
export interface PolicySession extends AsyncDisposable {
  /**
   * Appends `context` (prompt or observation) and samples an answer, which becomes part of the sequence. With a listener the
   * answer and the sequence end where it says, whatever was sampled in the meantime.
   */
  generate(
    context: Int32Array,
    sampling: SamplingOptions,
    signal?: AbortSignal,
    onToken?: TokenListener,
  ): Promise<Generation>;
  close(): Promise<void>;
}

/** Where answers come from: the ONNX engine, or a scripted or random policy. */
export interface Policy {
  /** `noiseKey` names the sampling noise: the same key and position give the same noise whatever the batching. */
  open(noiseKey: string): Promise<PolicySession>;
  /** Weight version of the next sampled token. */
  readonly version: number;
}

/** Text ↔ tokens, at exactly one boundary. */
export interface Tokenizer {
  readonly vocabularySize: number;
  /** Text alone: what looks like a special token stays text. */
  encode(text: string): Int32Array;
  decode(ids: Int32Array): string;
  /** The bytes of one token, of which a character may be only a part; empty for an id without a token. */
  bytes(id: number): Uint8Array;
  /** Id of a special token such as `<cmd>`; throws `AleError("tokenizer")` when there is none. */
  special(name: string): number;
}
