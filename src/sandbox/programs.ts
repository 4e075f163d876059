/** Commands in a sandbox: how they are run, and what comes of them. */

import { isAbsolute } from "node:path";
import { AleError } from "../core/errors.ts";
import type { CommandOptions, CommandResult } from "../core/ports.ts";
import type { RawResult } from "./protocol.ts";
import { encodeLaunch } from "./requests.ts";

/** For init: a program without a time limit. */
const NO_LIMIT = 0xffffffff;

/** How a one-shot program is run. */
export interface ExecOptions extends CommandOptions {
  readonly cwd: string;
  /** `Infinity`: no limit. */
  readonly timeoutMs: number;
  /** Added to the sandbox's own few variables, or in their place. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Name or number of a user of the sandbox; omitted: root. */
  readonly user?: string | undefined;
  /** What the program reads; omitted: nothing. */
  readonly stdin?: Uint8Array | undefined;
  /** Gets the whole output, up to `maxBytes`; how much is written does not end the program then. */
  readonly log?: { readonly path: string; readonly maxBytes: number } | undefined;
}

/** Standard output in `output`, standard error apart. `truncated` holds for either. */
export interface SeparateResult extends CommandResult {
  readonly errorOutput: Uint8Array;
  readonly errorOutputBytes: number;
}

/** What `exec` throws when the program is not there. */
export class ProgramMissing extends AleError {
  constructor(program: string) {
    super("sandbox", `there is no program ${program} in the sandbox`, { hint: "name one that the profile has" });
    this.name = "ProgramMissing";
  }
}

/** What `run` throws when there is no shell. */
export class ShellMissing extends AleError {
  constructor() {
    super("sandbox", "there is no shell in the sandbox", {
      hint: "install bash on this machine, or into the profile's root folder",
    });
    this.name = "ShellMissing";
  }
}

/**
 * The request that starts `argv`. `separate`: with standard error apart.
 * @throws AleError("sandbox") without a program, or when the folder is not an absolute path.
 */
export function encodeProgram(argv: readonly string[], options: ExecOptions, separate: boolean): Uint8Array {
  const { cwd, env, user, log, stdin, timeoutMs, maxOutputBytes } = options;
  if (argv.length === 0) throw new AleError("sandbox", "exec needs a program");
  checkPath(cwd);
  return encodeLaunch({
    first:
      timeoutMs === Number.POSITIVE_INFINITY ? NO_LIMIT : Math.max(1, Math.min(NO_LIMIT - 1, Math.ceil(timeoutMs))),
    second: Math.max(1, Math.min(NO_LIMIT, Math.ceil(maxOutputBytes))),
    ...{ cwd, env, user, argv, separate, log, input: stdin },
  });
}

/** @throws AleError("sandbox") when `path` is not absolute. */
export function checkPath(path: string): void {
  if (!isAbsolute(path)) throw new AleError("sandbox", `a path in a sandbox must be absolute, not "${path}"`);
}

/** @throws AleError("interrupted") when `signal` was. */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw new AleError("interrupted", `${what} was cancelled`, { cause: signal.reason });
}

/** A result of init as the port `Sandbox` tells it. */
export function toResult({ status, code, output, outputBytes, truncated, ms }: RawResult): CommandResult {
  const ended = status === "exited" || status === "shell_died";
  return { exitCode: ended ? code : null, output, outputBytes, truncated, status, ms };
}
