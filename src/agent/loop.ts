/** The agent loop: answer → command → observation, until the policy is done or a limit is hit. */

import { errorMessage } from "../core/errors.ts";
import type { CommandResult, PolicySession, SamplingOptions, Sandbox } from "../core/ports.ts";
import type { StopReason, Task, TokenRecord, Turn } from "../core/types.ts";
import type { TranscriptFormat } from "./format.ts";
import { TranscriptBuilder } from "./transcript.ts";

export interface AgentLimits {
  readonly maxTurns: number;
  readonly maxCommandTokens: number;
  /** Prompt and observations included. */
  readonly maxEpisodeTokens: number;
  readonly maxObservationChars: number;
  /** Wall-clock limit of a command in seconds; the task's own when omitted. */
  readonly commandSeconds?: number;
}

/** Judges what the agent does. */
export interface AgentGuard {
  /** Before the command runs. */
  command(text: string, turn: number): void;
  result(result: CommandResult): void;
  /** The kernel refused the sandbox processes that often. */
  processLimit(refused: number): void;
  /** Set once the episode is to end at once with `guard`; `signal` is aborted then. */
  readonly stopped: object | undefined;
  readonly signal: AbortSignal;
}

export interface AgentOptions {
  readonly session: PolicySession;
  readonly sandbox: Sandbox;
  readonly task: Task;
  readonly format: TranscriptFormat;
  readonly limits: AgentLimits;
  readonly sampling: Omit<SamplingOptions, "maxTokens" | "stopIds">;
  /** Wall-clock limit of the episode in milliseconds; the task's own limit applies too. */
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
  readonly onPhase?: (phase: "generate" | "tool") => void;
  /** Milliseconds that a turn's command begins late, as of a slow environment; none when omitted. */
  readonly latency?: (turn: number) => number;
  readonly guard?: AgentGuard;
  /** What was shown and written before, by others; the task's prompt and turn 0 when omitted. */
  readonly start?: { readonly context: Int32Array; readonly turn: number };
}

export interface AgentResult {
  readonly tokens: TokenRecord;
  readonly turns: readonly Turn[];
  readonly stopReason: StopReason;
  readonly error?: string;
}

/** Output bytes kept per character shown: the rest is only counted. */
const OUTPUT_BYTES_PER_CHAR = 8;

/** The sandbox failed, for a reason that is not the agent's doing. */
class SandboxFailure extends Error {}

/**
 * Runs one episode in a sandbox that already holds the task's files. Ends with a result for whatever the agent or the
 * sandbox did; rejects when the policy failed to generate (whether the episode is started again is the caller's decision) or
 * the run was aborted.
 */
export async function runAgent(options: AgentOptions): Promise<AgentResult> {
  const loop = new AgentLoop(options);
  try {
    const stopReason = await loop.run();
    return { ...loop.record(), stopReason };
  } catch (error) {
    options.signal.throwIfAborted();
    if (loop.ended !== undefined) return { ...loop.record(), stopReason: loop.ended };
    if (!(error instanceof SandboxFailure)) throw error;
    return { ...loop.record(), stopReason: "sandbox_error", error: error.message };
  } finally {
    loop.close();
  }
}

class AgentLoop {
  readonly #options: AgentOptions;
  readonly #transcript = new TranscriptBuilder();
  readonly #turns: Turn[] = [];
  /** Aborted when the run is, or when the episode's time is over. */
  readonly #abort = new AbortController();
  readonly #onRunAborted = () => this.#abort.abort(this.#options.signal.reason);
  readonly #onGuard = () => this.#abort.abort(this.#options.guard?.signal.reason);
  readonly #timer: Timer;
  readonly #started = performance.now();
  readonly #limitMs: number;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#limitMs = Math.min(options.deadlineMs, options.task.timeouts.agent * 1000);
    this.#timer = setTimeout(() => this.#abort.abort(new Error("the episode's time is over")), this.#limitMs);
    options.signal.addEventListener("abort", this.#onRunAborted, { once: true });
    options.guard?.signal.addEventListener("abort", this.#onGuard, { once: true });
    if (options.signal.aborted) this.#onRunAborted();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#options.signal.removeEventListener("abort", this.#onRunAborted);
    this.#options.guard?.signal.removeEventListener("abort", this.#onGuard);
  }

  /** Why nothing more can be done, if so. */
  get ended(): "guard" | "timeout" | undefined {
    if (this.#options.guard?.stopped !== undefined) return "guard";
    return this.#abort.signal.aborted || this.#elapsed() >= this.#limitMs ? "timeout" : undefined;
  }

  record(): { readonly tokens: TokenRecord; readonly turns: readonly Turn[] } {
    return { tokens: this.#transcript.build(), turns: this.#turns };
  }

  async run(): Promise<StopReason> {
    const { task, format, limits, start } = this.#options;
    let context = start?.context ?? format.encodePrompt(task.instruction);
    for (let turn = start?.turn ?? 0; ; turn++) {
      if (this.#transcript.length + context.length >= limits.maxEpisodeTokens) return "length";
      const startedMs = this.#elapsed();
      const answer = format.readAnswer(await this.#generate(context, turn));
      if (this.ended !== undefined) return this.ended;
      if (answer.kind === "done") return (await this.#limitHit()) ?? "done";
      if (answer.kind === "stop") return answer.reason;
      const { observation, stop } =
        answer.kind === "command"
          ? await this.#execute(answer.command, turn, startedMs)
          : this.#explain(answer.expected, turn, startedMs);
      if (stop !== undefined) return stop;
      context = format.encodeObservation(observation);
      if (turn + 1 >= limits.maxTurns) {
        // nothing answers it, so it is shown only where there is room
        if (this.#transcript.length + context.length <= limits.maxEpisodeTokens)
          this.#transcript.addContext(context, -1);
        return "turns";
      }
    }
  }

  async #generate(context: Int32Array, turn: number): Promise<Int32Array> {
    const { session, format, limits, sampling, onPhase } = this.#options;
    onPhase?.("generate");
    const room = limits.maxEpisodeTokens - this.#transcript.length - context.length;
    const generation = await session.generate(
      context,
      { ...sampling, maxTokens: Math.min(limits.maxCommandTokens + 1, room), stopIds: format.stopIds },
      this.#abort.signal,
    );
    this.#options.signal.throwIfAborted();
    this.#transcript.addContext(context, generation.versions[0] ?? -1);
    this.#transcript.addGeneration(generation, turn);
    return generation.ids;
  }

  /** A turn without a command: the policy is told what was expected of it. */
  #explain(expected: string, turn: number, startedMs: number): { observation: string; stop: undefined } {
    const now = this.#elapsed();
    const times = { startedMs, generatedMs: now, observedMs: now };
    this.#turns.push({ index: turn, command: "", observation: expected, exitCode: null, ...times });
    return { observation: expected, stop: undefined };
  }

  /** Runs a command; `stop` is set when it ended the episode. */
  async #execute(
    command: string,
    turn: number,
    startedMs: number,
  ): Promise<{ readonly observation: string; readonly stop: StopReason | undefined }> {
    const { sandbox, task, format, limits, guard, onPhase } = this.#options;
    onPhase?.("tool");
    const generatedMs = this.#elapsed();
    if (await this.#isLate(turn)) return { observation: "", stop: this.ended ?? "timeout" };
    guard?.command(command, turn);
    const seconds = limits.commandSeconds ?? task.timeouts.command;
    const times = { startedMs, generatedMs };
    const note = (observation: string, exitCode: number | null) =>
      this.#turns.push({ index: turn, command, observation, exitCode, ...times, observedMs: this.#elapsed() });
    let result: CommandResult;
    try {
      guard?.signal.throwIfAborted();
      result = await fromSandbox(
        sandbox.run(command, {
          timeoutMs: Math.max(1, Math.ceil(Math.min(seconds * 1000, this.#limitMs - this.#elapsed()))),
          maxOutputBytes: limits.maxObservationChars * OUTPUT_BYTES_PER_CHAR,
          signal: this.#abort.signal,
        }),
      );
    } catch (error) {
      this.#options.signal.throwIfAborted();
      if (guard?.stopped === undefined) throw error;
      note("", null); // what it was stopped for
      return { observation: "", stop: "guard" };
    }
    guard?.result(result);
    const observation = format.renderResult(result, limits.maxObservationChars);
    note(observation, result.exitCode);
    return { observation, stop: await this.#stopAfter(result) };
  }

  /**
   * Spends the turn's latency with a process of the sandbox's, as a slow environment would. What an agent does to that
   * process shortens its wait and nothing else. Returns whether that took the rest of the episode's time.
   */
  async #isLate(turn: number): Promise<boolean> {
    const { sandbox, latency } = this.#options;
    const ms = latency?.(turn) ?? 0;
    if (ms <= 0) return false;
    const timeoutMs = Math.max(1, Math.ceil(this.#limitMs - this.#elapsed()));
    const options = { cwd: "/", timeoutMs, maxOutputBytes: 1024, signal: this.#abort.signal };
    await fromSandbox(sandbox.exec(["sleep", (ms / 1000).toFixed(6)], options));
    return this.ended !== undefined;
  }

  /** A limit of the sandbox that was hit explains a failed command better than the command's own status. */
  async #stopAfter(result: CommandResult): Promise<StopReason | undefined> {
    this.#options.signal.throwIfAborted();
    const late = this.ended;
    if (late === "guard") return late;
    if (result.status === "exited" && result.exitCode === 0) return late;
    const limit = await this.#limitHit();
    if (limit !== undefined) return limit;
    switch (result.status) {
      case "exited":
        return late;
      case "timeout":
        return late ?? "command_timeout";
      case "output_limit":
      case "shell_died":
        return result.status;
    }
  }

  async #limitHit(): Promise<StopReason | undefined> {
    const events = await fromSandbox(this.#options.sandbox.limitEvents());
    if (events.memory > 0) return "memory";
    if (events.pids > 0) {
      this.#options.guard?.processLimit(events.pids);
      return "pids";
    }
    if (events.disk > 0) return "disk";
    return undefined;
  }

  #elapsed(): number {
    return performance.now() - this.#started;
  }
}

/** Marks what a sandbox throws as the sandbox's, to tell it from what the policy throws. */
async function fromSandbox<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw new SandboxFailure(errorMessage(error), { cause: error });
  }
}
