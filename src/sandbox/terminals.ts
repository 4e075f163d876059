/** Programs on a pseudo-terminal of the sandbox. What they write waits there until it is asked for. */

import { AleError } from "../core/errors.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import { ProgramMissing } from "./programs.ts";
import { Op } from "./protocol.ts";
import {
  decodeTerminalOutput,
  encodeLaunch,
  encodeNumbered,
  encodeTerminalRead,
  encodeTerminalSize,
  type TerminalOutput,
} from "./requests.ts";

const REQUEST_MS = 10_000;
/** The longest a read may wait inside the sandbox. */
export const MAX_READ_WAIT_MS = 30_000;

export interface TerminalOptions {
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly user?: string | undefined;
  readonly rows: number;
  readonly columns: number;
}

/** A terminal, or the console of a shell, whose number is the shell's. */
export class SandboxTerminal {
  readonly number: number;
  readonly #sandbox: NativeSandbox;

  constructor(sandbox: NativeSandbox, number: number) {
    this.#sandbox = sandbox;
    this.number = number;
  }

  /**
   * Starts a program as the leader of a session with a terminal of its own.
   * @throws ProgramMissing when it is not there.
   */
  static async open(sandbox: NativeSandbox, options: TerminalOptions): Promise<SandboxTerminal> {
    const { rows, columns, argv, cwd, user } = options;
    const [program] = argv;
    if (program === undefined) throw new AleError("sandbox", "a terminal needs a program");
    const env = { TERM: "xterm-256color", ...sandbox.env, ...options.env };
    const payload = encodeLaunch({ first: rows, second: columns, argv, cwd, env, user });
    const reply = await sandbox.request(Op.terminalOpen, payload, `starting ${program}`, REQUEST_MS);
    if (reply.missing) throw new ProgramMissing(program);
    const number = new DataView(reply.payload.buffer, reply.payload.byteOffset, 4).getUint32(0, true);
    return new SandboxTerminal(sandbox, number);
  }

  /** What it showed since the last read; waits for something to be shown, at most `waitMs`. */
  async read(waitMs: number): Promise<TerminalOutput> {
    const wait = Math.min(MAX_READ_WAIT_MS, Math.max(0, Math.floor(waitMs)));
    const payload = wait === 0 ? encodeNumbered(this.number, new Uint8Array(4)) : encodeTerminalRead(this.number, wait);
    const reply = await this.#sandbox.request(Op.terminalRead, payload, "output of a terminal", wait + REQUEST_MS);
    if (reply.missing) throw this.#closed();
    return decodeTerminalOutput(reply.payload);
  }

  /** Types into it. @throws AleError("sandbox") when the program takes nothing any more and much is waiting. */
  async write(input: Uint8Array): Promise<void> {
    await this.#ask(Op.terminalWrite, encodeNumbered(this.number, input));
  }

  async resize(rows: number, columns: number): Promise<void> {
    await this.#ask(Op.terminalResize, encodeTerminalSize(this.number, rows, columns));
  }

  /** Hangs up, and ends the program with all it started in its session. */
  async close(): Promise<void> {
    await this.#ask(Op.terminalClose, encodeNumbered(this.number)).catch((error: unknown) => {
      if (this.#sandbox.alive && !(error instanceof AleError && error.message.includes("is closed"))) throw error;
    });
  }

  async #ask(op: typeof Op.terminalWrite | typeof Op.terminalResize | typeof Op.terminalClose, payload: Uint8Array) {
    const reply = await this.#sandbox.request(op, payload, "a terminal", REQUEST_MS);
    if (reply.missing) throw this.#closed();
  }

  #closed(): AleError {
    return new AleError("sandbox", `terminal ${this.number} of sandbox ${this.#sandbox.id} is closed`);
  }
}
