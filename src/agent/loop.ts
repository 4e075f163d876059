/** The agent loop for small policies: answer → command → observation, until the policy is done or a limit is hit. */

import type { CommandResult, PolicySession, SamplingOptions, Sandbox, Tokenizer } from "../core/ports.ts";
import type { StopReason, Task, TokenRecord, Turn } from "../core/types.ts";
import {
  encodeObservation,
  encodePrompt,
  renderObservation,
  TranscriptBuilder,
  type TranscriptTokens,
  transcriptTokens,
} from "./transcript.ts";

export interface AgentLimits {
  readonly maxTurns: number;
  readonly maxCommandTokens: number;
  /** Prompt and observations included. */
  readonly maxEpisodeTokens: number;
  readonly maxObservationChars: number;
  /** Wall-clock limit of a command in seconds; the task's own when omitted. */
  readonly commandSeconds?: number;
}

export interface AgentOptions {
  readonly session: PolicySession;
  readonly sandbox: Sandbox;
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly limits: AgentLimits;
  readonly sampling: Pick<SamplingOptions, "temperature" | "greedy">;
  /** Wall-clock limit of the episode in milliseconds. */
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
  readonly onPhase?: (phase: "generate" | "tool") => void;
}

export interface AgentResult {
  readonly tokens: TokenRecord;
  readonly turns: readonly Turn[];
  readonly stopReason: StopReason;
  readonly error?: string;
}

/** Output bytes kept per character shown: the rest is only counted. */
const OUTPUT_BYTES_PER_CHAR = 8;

/**
 * Runs one episode in a sandbox that already holds the task's files. Ends with a result for whatever the agent did;
 * rejects when the engine or the sandbox failed, or the run was aborted.
 */
export async function runAgent(options: AgentOptions): Promise<AgentResult> {
  const loop = new AgentLoop(options);
  try {
    const stopReason = await loop.run();
    return { ...loop.record(), stopReason };
  } catch (error) {
    options.signal.throwIfAborted();
    if (loop.expired) return { ...loop.record(), stopReason: "timeout" };
    throw error;
  }
}

class AgentLoop {
  readonly #options: AgentOptions;
  readonly #tokens: TranscriptTokens;
  readonly #transcript = new TranscriptBuilder();
  readonly #turns: Turn[] = [];
  readonly #deadline: AbortSignal;
  readonly #signal: AbortSignal;
  readonly #started = performance.now();

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#tokens = transcriptTokens(options.tokenizer);
    this.#deadline = AbortSignal.timeout(options.deadlineMs);
    this.#signal = AbortSignal.any([options.signal, this.#deadline]);
  }

  get expired(): boolean {
    return this.#deadline.aborted;
  }

  record(): { readonly tokens: TokenRecord; readonly turns: readonly Turn[] } {
    return { tokens: this.#transcript.build(), turns: this.#turns };
  }

  async run(): Promise<StopReason> {
    const { task, tokenizer, limits } = this.#options;
    let context = encodePrompt(tokenizer, this.#tokens, task.instruction);
    for (let turn = 0; ; turn++) {
      if (this.#transcript.length + context.length >= limits.maxEpisodeTokens) return "length";
      const startedMs = this.#elapsed();
      const answer = await this.#generate(context, turn);
      const last = answer.at(-1);
      if (last === this.#tokens.done && answer.length === 1) return (await this.#limitHit()) ?? "done";
      if (last === undefined || !this.#tokens.all.includes(last)) return "length";
      if (last !== this.#tokens.observation || answer.length === 1) return "format";
      const command = tokenizer.decode(answer.subarray(0, -1));
      const { observation, stop } = await this.#execute(command, turn, startedMs);
      if (stop !== undefined) return stop;
      context = encodeObservation(tokenizer, this.#tokens, observation);
      if (turn + 1 >= limits.maxTurns) {
        this.#transcript.addContext(context, -1);
        return "turns";
      }
    }
  }

  async #generate(context: Int32Array, turn: number): Promise<Int32Array> {
    const { session, limits, sampling, onPhase } = this.#options;
    onPhase?.("generate");
    const room = limits.maxEpisodeTokens - this.#transcript.length - context.length;
    const generation = await session.generate(
      context,
      { ...sampling, maxTokens: Math.min(limits.maxCommandTokens + 1, room), stopIds: this.#tokens.all },
      this.#signal,
    );
    this.#transcript.addContext(context, generation.versions[0] ?? -1);
    this.#transcript.addGeneration(generation, turn);
    return generation.ids;
  }

  /** Runs a command; `stop` is set when it ended the episode. */
  async #execute(
    command: string,
    turn: number,
    startedMs: number,
  ): Promise<{ readonly observation: string; readonly stop: StopReason | undefined }> {
    const { sandbox, task, limits, onPhase } = this.#options;
    onPhase?.("tool");
    const generatedMs = this.#elapsed();
    const result = await sandbox.run(command, {
      timeoutMs: (limits.commandSeconds ?? task.timeouts.command) * 1000,
      maxOutputBytes: limits.maxObservationChars * OUTPUT_BYTES_PER_CHAR,
      signal: this.#signal,
    });
    const observation = renderObservation(result, limits.maxObservationChars);
    this.#turns.push({
      index: turn,
      command,
      observation,
      exitCode: result.exitCode,
      startedMs,
      generatedMs,
      observedMs: this.#elapsed(),
    });
    return { observation, stop: await this.#stopAfter(result) };
  }

  /** A limit of the sandbox that was hit explains a failed command better than the command's own status. */
  async #stopAfter(result: CommandResult): Promise<StopReason | undefined> {
    if (result.status === "exited" && result.exitCode === 0) return undefined;
    const limit = await this.#limitHit();
    if (limit !== undefined) return limit;
    switch (result.status) {
      case "exited":
        return undefined;
      case "timeout":
        return "command_timeout";
      case "output_limit":
      case "shell_died":
        return result.status;
    }
  }

  async #limitHit(): Promise<StopReason | undefined> {
    const events = await this.#options.sandbox.limitEvents();
    if (events.memory > 0) return "memory";
    if (events.pids > 0) return "pids";
    if (events.disk > 0) return "disk";
    return undefined;
  }

  #elapsed(): number {
    return performance.now() - this.#started;
  }
}
