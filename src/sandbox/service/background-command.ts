/** A command that goes on while nobody waits for it. */

import { errorMessage } from "../../core/errors.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import type { SeparateResult } from "../programs.ts";
import type { Clock } from "./clock.ts";

export interface CommandRequest {
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly user?: string | undefined;
  readonly stdin?: Uint8Array | undefined;
  /** `Infinity`: no limit. */
  readonly timeoutMs: number;
  /** What the file may hold of the output; both ends are kept besides. */
  readonly maxLogBytes: number;
}

const LOG_FOLDER = "/var/log/ale";
const KEPT_OUTPUT = 16 << 10;

export class BackgroundCommand {
  readonly id: string;
  readonly request: CommandRequest;
  /** File in the sandbox with standard output and standard error. */
  readonly logPath: string;
  readonly startedAt: number;
  /** The result; `undefined` when it could not be started, or was lost with its sandbox. */
  readonly ended: Promise<SeparateResult | undefined>;
  endedAt: number | undefined;
  result: SeparateResult | undefined;
  /** Why there is no result. */
  error: string | undefined;
  readonly #abort = new AbortController();

  private constructor(sandbox: NativeSandbox, id: string, request: CommandRequest, clock: Clock) {
    this.id = id;
    this.request = request;
    this.logPath = `${LOG_FOLDER}/${id}.log`;
    this.startedAt = clock.now();
    this.ended = this.#run(sandbox, clock);
  }

  static start(sandbox: NativeSandbox, id: string, request: CommandRequest, clock: Clock): BackgroundCommand {
    return new BackgroundCommand(sandbox, id, request, clock);
  }

  get state(): "running" | "ended" | "failed" {
    if (this.result !== undefined) return "ended";
    return this.error === undefined ? "running" : "failed";
  }

  async #run(sandbox: NativeSandbox, clock: Clock): Promise<SeparateResult | undefined> {
    const { maxLogBytes, argv, ...options } = this.request;
    try {
      await sandbox.upload(LOG_FOLDER, []);
      const log = { path: this.logPath, maxBytes: maxLogBytes };
      const result = await sandbox.exec(argv, {
        ...options,
        log,
        maxOutputBytes: KEPT_OUTPUT,
        signal: this.#abort.signal,
      });
      this.result = { ...result, errorOutput: new Uint8Array(0), errorOutputBytes: 0 };
    } catch (error) {
      this.error = this.#abort.signal.aborted ? "it was ended" : errorMessage(error);
    }
    this.endedAt = clock.now();
    return this.result;
  }

  /** Ends it with everything in its process group. */
  kill(): void {
    this.#abort.abort();
  }
}
