/**
 * Named shells: besides the one that episodes use, a sandbox can have fifteen persistent shells, each with its own folder,
 * variables, user, and console for interactive programs.
 */

import { AleError } from "../core/errors.ts";
import type { CommandResult } from "../core/ports.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import { type ExecOptions, ProgramMissing } from "./programs.ts";
import { Op } from "./protocol.ts";
import { encodeLaunch, encodeNumbered } from "./requests.ts";
import { PRINT_SHELL_STATE, parseShellState, restoreShellState, type ShellState } from "./snapshots.ts";
import { SandboxTerminal } from "./terminals.ts";

const REQUEST_MS = 10_000;
const SYNTAX_MS = 10_000;
const SYNTAX_OUTPUT = 4096;
const STATE_BYTES = 1 << 20;
/** How long one look at the console waits before it looks at the command again. */
const LOOK_MS = 1000;
/** As `OUTPUT_FACTOR` in `launcher/init.h`. */
const OUTPUT_FACTOR = 64;

/** What is told before anything runs. */
export class ShellSyntaxError extends AleError {
  constructor(complaint: string) {
    super("usage", `the command is not run, for it is not right: ${complaint}`, { hint: "correct the syntax" });
    this.name = "ShellSyntaxError";
  }
}

export interface ShellOptions {
  readonly cwd: string;
  readonly user?: string | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
}

export interface ShellRunOptions {
  /** `Infinity`: no limit. */
  readonly timeoutMs: number;
  readonly maxOutputBytes: number;
  readonly signal?: AbortSignal | undefined;
  /** Have `bash -n` look at the command first. */
  readonly checkSyntax?: boolean;
  /** On the console, where the program stays in front when one of `expect` is shown and takes the next text as its input. */
  readonly interactive?: boolean;
  /** Shown by the command, each of these ends the wait for it; implies `interactive`. */
  readonly expect?: readonly RegExp[];
}

export interface ShellResult extends CommandResult {
  /** The shell had to be started anew: folder and variables are those of the beginning. */
  readonly restarted: boolean;
  /** What of `expect` was shown; the command goes on, and `exitCode` is null. */
  readonly matched: string | undefined;
}

/** The command that somebody waits for. */
interface Running {
  readonly over: Promise<void>;
  readonly signal: AbortSignal | undefined;
  /** Its time limit, of `performance.now()`. */
  readonly until: number;
}

function isEnding({ signal, until }: Running): boolean {
  return signal?.aborted === true || performance.now() >= until;
}

/** The program in front on the console. */
interface Foreground {
  readonly ended: Promise<CommandResult & { readonly restarted: boolean }>;
  readonly abort: AbortController;
  /** What was shown after the last match. */
  carry: string;
}

export class NamedShell {
  readonly name: string;
  readonly options: ShellOptions;
  readonly #sandbox: NativeSandbox;
  readonly #number: number;
  readonly #console: SandboxTerminal;
  #foreground: Foreground | undefined;
  #running: Running | undefined;

  private constructor(sandbox: NativeSandbox, number: number, name: string, options: ShellOptions) {
    this.#sandbox = sandbox;
    this.#number = number;
    this.#console = new SandboxTerminal(sandbox, number);
    this.name = name;
    this.options = options;
  }

  /** Starts shell `number`, from 1 to 15, in the sandbox. */
  static async open(sandbox: NativeSandbox, number: number, name: string, options: ShellOptions): Promise<NamedShell> {
    const env = { ...sandbox.env, ...options.env };
    const payload = encodeLaunch({ first: number, second: 0, argv: [], console: true, ...options, env });
    await sandbox.request(Op.shellOpen, payload, `opening shell ${name}`, REQUEST_MS);
    return new NamedShell(sandbox, number, name, options);
  }

  get number(): number {
    return this.#number;
  }

  /** A command runs, or an interactive program is in front. */
  get busy(): boolean {
    return this.#running !== undefined || this.#foreground !== undefined;
  }

  /**
   * Runs a command, or hands a line to the interactive program in front.
   * @throws ShellSyntaxError, when it was to be checked, and AleError("usage") while another command is running.
   */
  async run(command: string, options: ShellRunOptions): Promise<ShellResult> {
    const interactive = options.interactive === true || (options.expect?.length ?? 0) > 0;
    // Whoever gave up on a command, or whose time limit has passed, need not know how long its end takes.
    while (this.#running !== undefined && isEnding(this.#running)) await this.#running.over;
    if (this.#running !== undefined || (this.#foreground !== undefined && !interactive))
      throw new AleError("usage", `shell ${this.name} is still running a command`, {
        hint:
          this.#running !== undefined
            ? "wait, interrupt it, or use another shell"
            : "an interactive program is in front: send it lines as interactive, or interrupt it",
      });
    const over = Promise.withResolvers<void>();
    this.#running = { over: over.promise, signal: options.signal, until: performance.now() + options.timeoutMs };
    try {
      if (options.checkSyntax && this.#foreground === undefined) await checkSyntax(this.#sandbox, command);
      if (interactive) return await this.#interact(command, options);
      return { ...(await this.#sandbox.runIn(this.#number, command, plain(options))), matched: undefined };
    } finally {
      this.#running = undefined;
      over.resolve();
    }
  }

  async #interact(command: string, options: ShellRunOptions): Promise<ShellResult> {
    const started = performance.now();
    const front = this.#foreground ?? (await this.#start(command, options));
    if (front === this.#foreground) await this.#console.write(new TextEncoder().encode(`${command}\n`));
    this.#foreground = front;
    const abort = () => front.abort.abort();
    options.signal?.addEventListener("abort", abort, { once: true });
    try {
      const seen = await this.#watch(front, options, started);
      const { text, total, matched, ended } = seen;
      if (matched === undefined) this.#foreground = undefined;
      const { output, truncated } = keepEnds(text, total, options.maxOutputBytes);
      const shown = { output, outputBytes: total, truncated, ms: performance.now() - started, matched };
      if (matched !== undefined) return { ...shown, status: "exited", exitCode: null, restarted: false };
      if (ended !== undefined)
        return { ...shown, status: ended.status, exitCode: ended.exitCode, restarted: ended.restarted };
      return { ...shown, status: seen.flooded ? "output_limit" : "timeout", exitCode: null, restarted: false };
    } catch (error) {
      this.#foreground = undefined; // cancelled, or lost with its sandbox
      throw error;
    } finally {
      options.signal?.removeEventListener("abort", abort);
    }
  }

  async #start(command: string, options: ShellRunOptions): Promise<Foreground> {
    await this.#console.read(0); // what the background wrote belongs to no command
    const abort = new AbortController();
    const ended = this.#sandbox.runIn(this.#number, command, {
      timeoutMs: Number.POSITIVE_INFINITY,
      maxOutputBytes: options.maxOutputBytes,
      signal: abort.signal,
      interactive: true,
    });
    ended.catch(() => {}); // awaited by whoever watches
    return { ended, abort, carry: "" };
  }

  /** Collects what the console shows until the program ends, something expected is shown, or a limit is reached. */
  async #watch(front: Foreground, options: ShellRunOptions, started: number): Promise<Watched> {
    const expected = options.expect ?? [];
    const decoder = new TextDecoder();
    const watched: Watched = { text: front.carry, total: front.carry.length, flooded: false };
    front.carry = "";
    let ended: Awaited<Foreground["ended"]> | undefined;
    const ending = front.ended.then((result) => {
      ended = result;
    });
    ending.catch(() => {});
    const take = (bytes: Uint8Array) => {
      watched.total += bytes.length;
      watched.text = trimMiddle(watched.text + decoder.decode(bytes, { stream: true }), options.maxOutputBytes);
    };
    for (;;) {
      const match = firstMatch(watched.text, expected);
      if (match !== undefined) {
        front.carry = watched.text.slice(match.end);
        return { ...watched, text: watched.text.slice(0, match.start), matched: match.text };
      }
      if (ended !== undefined) return { ...watched, ended };
      const left = options.timeoutMs - (performance.now() - started);
      watched.flooded = watched.total > options.maxOutputBytes * OUTPUT_FACTOR;
      if (left <= 0 || watched.flooded) {
        await this.#endForeground(front);
        return watched;
      }
      const reading = this.#console.read(Math.min(LOOK_MS, left));
      await Promise.race([reading, ending]);
      if (ended !== undefined) {
        // The read that is under way is answered when the next one arrives.
        const last = this.#console.read(0);
        take((await reading).output);
        take((await last).output);
      } else take((await reading).output);
    }
  }

  async #endForeground(front: Foreground): Promise<void> {
    front.abort.abort();
    await front.ended.catch(() => {}); // interrupted, as told
    this.#foreground = undefined;
  }

  /** Ctrl-C: SIGINT to what is running. Returns whether something was. */
  async interrupt(): Promise<boolean> {
    const payload = encodeNumbered(this.#number);
    const reply = await this.#sandbox.request(Op.interrupt, payload, `interrupting shell ${this.name}`, REQUEST_MS);
    const front = this.#foreground;
    if (front !== undefined && this.#running === undefined) {
      // Nobody watches it: once it has ended, the shell is free.
      front.ended.then(
        () => this.#leave(front),
        () => this.#leave(front),
      );
    }
    return reply.payload[0] === 1;
  }

  #leave(front: Foreground): void {
    if (this.#foreground === front && this.#running === undefined) this.#foreground = undefined;
  }

  /** Folder and exported variables; `undefined` while a command is running. */
  async state(): Promise<ShellState | undefined> {
    if (this.busy) return undefined;
    const result = await this.run(PRINT_SHELL_STATE, { timeoutMs: REQUEST_MS, maxOutputBytes: STATE_BYTES });
    return result.exitCode === 0 && !result.truncated ? parseShellState(result.output) : undefined;
  }

  async restore(state: ShellState): Promise<void> {
    await this.run(restoreShellState(state), { timeoutMs: REQUEST_MS, maxOutputBytes: STATE_BYTES });
  }

  /** Hangs up; what was started with nohup goes on. */
  async close(): Promise<void> {
    const payload = encodeNumbered(this.#number);
    await this.#sandbox.request(Op.shellClose, payload, `closing shell ${this.name}`, REQUEST_MS);
  }
}

interface Watched {
  text: string;
  total: number;
  flooded: boolean;
  readonly matched?: string;
  readonly ended?: Awaited<Foreground["ended"]>;
}

function plain({ timeoutMs, maxOutputBytes, signal }: ShellRunOptions) {
  return { timeoutMs, maxOutputBytes, ...(signal === undefined ? {} : { signal }) };
}

/** The match that begins first. */
function firstMatch(text: string, expected: readonly RegExp[]) {
  let first: { readonly start: number; readonly end: number; readonly text: string } | undefined;
  for (const pattern of expected) {
    const found = pattern.exec(text);
    if (found === null || (first !== undefined && first.start <= found.index)) continue;
    first = { start: found.index, end: found.index + found[0].length, text: found[0] };
  }
  return first;
}

/** Bounds what is held while something is waited for; the beginning and the end are what counts. */
function trimMiddle(text: string, cap: number): string {
  return text.length <= 4 * cap ? text : text.slice(0, cap) + text.slice(-cap);
}

function keepEnds(text: string, total: number, cap: number): { output: Uint8Array; truncated: boolean } {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length <= cap) return { output: bytes, truncated: false };
  const head = bytes.subarray(0, cap >> 1);
  const tail = bytes.subarray(bytes.length - (cap - (cap >> 1)));
  const note = new TextEncoder().encode(`\n[... ${Math.max(total, bytes.length) - cap} bytes omitted ...]\n`);
  return { output: Buffer.concat([head, note, tail]), truncated: true };
}

/**
 * Has the sandbox's own bash look at a command without running it.
 * @throws ShellSyntaxError with what it says.
 */
export async function checkSyntax(sandbox: NativeSandbox, command: string): Promise<void> {
  const options: ExecOptions = {
    cwd: "/",
    timeoutMs: SYNTAX_MS,
    maxOutputBytes: SYNTAX_OUTPUT,
    stdin: new TextEncoder().encode(`${command}\n`),
  };
  // `extglob`, for the shell at hand may have it on; then more is right.
  const result = await sandbox.exec(["bash", "-O", "extglob", "-n"], options).catch((error: unknown) => {
    if (error instanceof ProgramMissing) return sandbox.exec(["sh", "-n"], options);
    throw error;
  });
  if (result.exitCode !== 0) throw new ShellSyntaxError(new TextDecoder().decode(result.output).trim());
}
