/**
 * The agent loop: the policy answers, its command runs in the sandbox, what it printed goes back to the policy. It knows
 * ports only. Whatever ends an episode is a stop reason.
 */

import { errorMessage } from "../core/errors.ts";
import type { CommandResult, Generation, PolicySession, SamplingOptions, Sandbox, Tokenizer } from "../core/ports.ts";
import type { StopReason, Task, TokenRecord, Turn } from "../core/types.ts";
import {
  type AgentLimits,
  type Answer,
  observationContext,
  openingContext,
  readAnswer,
  renderObservation,
  type SpecialIds,
  specialIds,
  Transcript,
} from "./transcript.ts";

export type { AgentLimits } from "./transcript.ts";

export interface AgentOptions {
  readonly session: PolicySession;
  /** Holds the task's files; its shell session stands in the working directory. */
  readonly sandbox: Sandbox;
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly limits: AgentLimits;
  readonly sampling: Pick<SamplingOptions, "temperature" | "greedy">;
  /** Wall-clock limit of the whole loop in milliseconds; the task's own limit applies too. */
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
  readonly onPhase?: (phase: "generate" | "tool") => void;
  /** Milliseconds; for tests. */
  readonly clock?: () => number;
}

export interface AgentResult {
  readonly tokens: TokenRecord;
  /** One per answer; the answer `<done>` has an empty command and no exit code. */
  readonly turns: readonly Turn[];
  readonly stopReason: StopReason;
  /** What went wrong, for stop reasons that are not the policy's doing. */
  readonly error?: string;
}

/** Output of a command that is kept; the observation is made of its beginning. */
const MAX_OUTPUT_BYTES = 4096;

interface Ending {
  readonly stopReason: StopReason;
  readonly error?: string;
}

/**
 * Runs one episode's conversation to its end. A failed command, a broken sandbox or a passed deadline is a stop reason.
 *
 * Rejects only when `signal` is aborted, or when the policy fails to generate: whether such an episode is started again is
 * the caller's decision.
 */
export async function runAgent(options: AgentOptions): Promise<AgentResult> {
  const loop = new AgentLoop(options);
  try {
    const ending = await loop.run();
    return { tokens: loop.transcript.record(), turns: loop.turns, ...ending };
  } finally {
    loop.close();
  }
}

class AgentLoop {
  readonly transcript = new Transcript();
  readonly turns: Turn[] = [];
  readonly #options: AgentOptions;
  readonly #special: SpecialIds;
  readonly #clock: () => number;
  readonly #began: number;
  readonly #expires: number;
  readonly #abort = new AbortController();
  readonly #timer: Timer;
  readonly #onCancel = () => this.#abort.abort(this.#options.signal.reason);

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#special = specialIds(options.tokenizer);
    this.#clock = options.clock ?? (() => performance.now());
    this.#began = this.#clock();
    const limitMs = Math.min(options.deadlineMs, options.task.timeouts.agent * 1000);
    this.#expires = this.#began + limitMs;
    this.#timer = setTimeout(() => this.#abort.abort(new Error("the episode's time is over")), limitMs);
    options.signal.addEventListener("abort", this.#onCancel, { once: true });
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#options.signal.removeEventListener("abort", this.#onCancel);
  }

  async run(): Promise<Ending> {
    const { task, tokenizer, limits } = this.#options;
    let context = openingContext(task.instruction, tokenizer, this.#special);
    for (let index = 0; index < limits.maxTurns; index++) {
      if (this.transcript.length + context.length >= limits.maxEpisodeTokens) {
        return index > 0 ? { stopReason: "length" } : this.#instructionTooLong(context.length);
      }
      const outcome = await this.#takeTurn(index, context);
      if ("stopReason" in outcome) return outcome;
      context = outcome.context;
    }
    return { stopReason: "turns" };
  }

  #instructionTooLong(tokens: number): Ending {
    const limit = this.#options.limits.maxEpisodeTokens;
    return {
      stopReason: "length",
      error: `the instruction has ${tokens} tokens and an episode may have ${limit}: raise rollout.maxEpisodeTokens`,
    };
  }

  async #takeTurn(index: number, context: Int32Array): Promise<Ending | { readonly context: Int32Array }> {
    const { tokenizer, limits, onPhase } = this.#options;
    const startedMs = this.#elapsed();
    onPhase?.("generate");
    const generation = await this.#generate(context);
    if (generation === undefined) return { stopReason: "timeout" };
    this.transcript.appendContext(context);
    this.transcript.appendAnswer(generation, index);
    const answer = readAnswer(generation, tokenizer, this.#special);
    const turn = { index, command: answer.kind === "done" ? "" : answer.command, startedMs, generatedMs: this.#elapsed() };
    const record = (observation: string, exitCode: number | null) =>
      this.turns.push({ ...turn, observation, exitCode, observedMs: this.#elapsed() });
    if (answer.kind !== "command") {
      record("", null);
      return this.#conclude(answer.kind);
    }
    onPhase?.("tool");
    try {
      const result = await this.#runCommand(answer.command);
      const observation = renderObservation(result, limits.maxObservationChars);
      record(observation, result.exitCode);
      const ending = await this.#judgeCommand(result);
      return ending ?? { context: observationContext(observation, tokenizer, this.#special) };
    } catch (error) {
      this.#options.signal.throwIfAborted();
      if (this.turns.length === index) record("", null);
      return this.#late() ? { stopReason: "timeout" } : { stopReason: "sandbox_error", error: errorMessage(error) };
    }
  }

  /** `undefined` when the episode's time passed before there was an answer. */
  async #generate(context: Int32Array): Promise<Generation | undefined> {
    const { session, sampling, limits } = this.#options;
    const room = limits.maxEpisodeTokens - this.transcript.length - context.length;
    const { pad, task, cmd, obs, done } = this.#special;
    try {
      return await session.generate(
        context,
        {
          temperature: sampling.temperature,
          greedy: sampling.greedy,
          maxTokens: Math.min(limits.maxCommandTokens, room),
          stopIds: [obs, done, pad, task, cmd],
        },
        this.#abort.signal,
      );
    } catch (error) {
      this.#options.signal.throwIfAborted();
      if (this.#late()) return undefined;
      throw error;
    }
  }

  async #conclude(kind: Exclude<Answer["kind"], "command">): Promise<Ending> {
    if (kind !== "done") return { stopReason: this.#late() ? "timeout" : kind };
    try {
      const limit = await this.#limitHit();
      return { stopReason: limit ?? "done" };
    } catch (error) {
      this.#options.signal.throwIfAborted();
      return { stopReason: "sandbox_error", error: errorMessage(error) };
    }
  }

  #runCommand(command: string): Promise<CommandResult> {
    const { sandbox, task, limits } = this.#options;
    const seconds = Math.min(limits.commandSeconds ?? task.timeouts.command, task.timeouts.command);
    return sandbox.run(command, {
      timeoutMs: Math.max(1, Math.min(seconds * 1000, this.#expires - this.#clock())),
      maxOutputBytes: MAX_OUTPUT_BYTES,
      signal: this.#abort.signal,
    });
  }

  /** A limit of the sandbox explains more than what it did to the command, so it is looked at first. */
  async #judgeCommand(result: CommandResult): Promise<Ending | undefined> {
    this.#options.signal.throwIfAborted();
    if (result.status === "exited" && result.exitCode === 0) return this.#late() ? { stopReason: "timeout" } : undefined;
    const limit = await this.#limitHit();
    if (limit !== undefined) return { stopReason: limit };
    if (result.status === "output_limit" || result.status === "shell_died") return { stopReason: result.status };
    if (this.#late()) return { stopReason: "timeout" };
    return result.status === "timeout" ? { stopReason: "command_timeout" } : undefined;
  }

  async #limitHit(): Promise<"memory" | "pids" | "disk" | undefined> {
    const events = await this.#options.sandbox.limitEvents();
    if (events.memory > 0) return "memory";
    if (events.pids > 0) return "pids";
    return events.disk > 0 ? "disk" : undefined;
  }

  #elapsed(): number {
    return this.#clock() - this.#began;
  }

  #late(): boolean {
    return this.#clock() >= this.#expires || this.#abort.signal.aborted;
  }
}
