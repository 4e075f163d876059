/**
 * A sandbox of E2B's. envd says that a program ended only when nobody holds its output any more, daemons included, and it has no
 * exit code for what a signal ended. So a shell waits there for each program and writes a mark with the exit code after its output.
 */

import { randomBytes } from "node:crypto";
import { AleError, errorMessage } from "../../core/errors.ts";
import type { CommandOptions, CommandResult } from "../../core/ports.ts";
import { beginWait } from "../../core/waits.ts";
import type { Envd, EnvdProcess } from "./e2b-envd.ts";
import { keepEnds, type RemoteMachine, type RemoteResult, type RemoteRun } from "./remote-sandbox.ts";

const OPEN_MS = 60_000;
const END_MS = 60_000;
/** The longest a timer can run. */
const LONGEST_MS = 2 ** 31 - 1;
/** Of each stream; what writes more is ended. */
const OUTPUT_BYTES = 64 << 20;
const OUTPUT_FACTOR = 64;
const LEAST_OUTPUT_BYTES = 16 << 20;
/** Kept of what daemons write between commands, for the sake of a mark in it. */
const IDLE_BYTES = 1 << 20;
/** Longer than a mark. */
const MARK_BYTES = 64;
const MARK = String.raw`'\036%s:%d\036'`;

/** Runs what follows the key $1, then writes the mark to both streams. */
const MARKED = `key=$1; shift; "$@"; code=$?; printf ${MARK} "$key" $code; printf ${MARK} "$key" $code >&2`;

/** Ends the processes whose command line has the key $1$2, with all below them; prints the folder of process $3. */
const END = `key=$1$2; tree=' '; folder=$(readlink /proc/$3/cwd 2>/dev/null)
for d in /proc/[0-9]*; do
  case $(tr '\\0' ' ' < $d/cmdline 2>/dev/null) in *"$key"*) kill -STOP \${d#/proc/} && tree="$tree\${d#/proc/} ";; esac
done
grown=1
while [ -n "$grown" ]; do
  grown=
  for d in /proc/[0-9]*; do
    q=\${d#/proc/}
    case "$tree" in *" $q "*) continue;; esac
    s=$(cat $d/stat 2>/dev/null) || continue
    s=\${s##*) }; set -- $s
    case "$tree" in *" $2 "*) kill -STOP $q; tree="$tree$q "; grown=1;; esac
  done
done
[ "$tree" = ' ' ] || kill -9 $tree
[ ! -d "$folder" ] || printf %s "$folder"`;

type Ending = "exited" | "timeout" | "output_limit" | "interrupted";
type Streams = { readonly stdout: Marked; readonly stderr?: Marked };

interface Shell {
  readonly key: string;
  readonly process: EnvdProcess;
  /** Its number inside. */
  pid: string;
  /** For its end while no command runs. */
  idle: Marked;
  /** Gets what the command in it writes. */
  onData: (bytes: Uint8Array) => void;
}

export class E2bMachine implements RemoteMachine {
  readonly id: string;
  readonly #envd: Envd;
  readonly #delete: () => Promise<void>;
  #shell: Shell | undefined;
  /** Where the next shell begins. */
  #folder = "/";

  constructor(id: string, envd: Envd, end: () => Promise<void>) {
    this.id = id;
    this.#envd = envd;
    this.#delete = end;
  }

  async execute(argv: readonly string[], { cwd, env, timeoutMs, signal }: RemoteRun): Promise<RemoteResult> {
    const key = newKey();
    const streams = { stdout: new Marked([key]), stderr: new Marked([key]) };
    const wait = new Wait(`running ${argv[0]} in sandbox ${this.id}`, streams, OUTPUT_BYTES);
    const process = await this.#envd.start(["sh", "-c", MARKED, "sh", key, ...argv], {
      ...{ cwd, env, stdin: false, onData: (stream, bytes) => wait.take(stream, bytes) },
    });
    try {
      const ending = await wait.over(process, timeoutMs, signal);
      if (ending !== "exited") await this.#endAll(key);
      if (ending === "interrupted") throw interrupted(signal);
      const { stdout, stderr } = streams;
      if (ending === "exited" && stdout.mark === undefined)
        throw new AleError("sandbox", `running ${argv[0]} in sandbox ${this.id}: what waited for it was killed`);
      const exitCode = ending === "exited" ? (stdout.mark?.code ?? null) : null;
      return { status: ending, exitCode, stdout: stdout.content(), stderr: stderr.content() };
    } finally {
      process.leave();
    }
  }

  async runInShell(command: string, { timeoutMs, maxOutputBytes, signal }: CommandOptions): Promise<CommandResult> {
    const started = performance.now();
    this.#shell ??= await this.#open(this.#folder);
    const shell = this.#shell;
    if (shell.idle.mark !== undefined || shell.process.over) {
      // What a command left behind ended it, or the connection to it was lost.
      this.#leaveShell();
      this.#folder = (await this.#endAll(shell.key, shell.pid)) || this.#folder;
      const [exitCode, output] = [shell.idle.mark?.code ?? null, new Uint8Array()];
      return { status: "shell_died", exitCode, output, outputBytes: 0, truncated: false, ms: 0 };
    }
    const { ending, stdout } = await this.#inShell(shell, `eval -- ${quote(command)} </dev/null >&198 2>&198`, {
      ...{ timeoutMs, signal, maxBytes: Math.max(LEAST_OUTPUT_BYTES, OUTPUT_FACTOR * maxOutputBytes) },
    });
    if (ending === "interrupted") throw interrupted(signal);
    const bytes = stdout.content();
    const output = keepEnds(bytes, maxOutputBytes);
    const code = stdout.mark?.code ?? null;
    const died = stdout.mark === undefined || stdout.mark.key === shell.key;
    return {
      ...(ending === "exited"
        ? { status: died ? "shell_died" : "exited", exitCode: code }
        : { status: ending, exitCode: null }),
      ...{ output, outputBytes: bytes.length, truncated: output !== bytes, ms: performance.now() - started },
    };
  }

  /** Writes one line to the shell and waits for its mark. Unless the shell lives on, the next command gets a new one. */
  async #inShell(
    shell: Shell,
    line: string,
    options: { timeoutMs: number; maxBytes: number; signal?: AbortSignal | undefined },
  ): Promise<{ ending: Ending; stdout: Marked }> {
    const key = newKey();
    const stdout = new Marked([key, shell.key]);
    const wait = new Wait(`a command in the shell of sandbox ${this.id}`, { stdout }, options.maxBytes);
    shell.onData = (bytes) => wait.take("stdout", bytes);
    shell.idle = new Marked([shell.key]);
    let lives = false;
    try {
      await shell.process.send(`${line}\nbuiltin printf ${MARK} ${key} "$?" >&198\n`);
      const ending = await wait.over(shell.process, options.timeoutMs, options.signal);
      if (ending !== "exited") this.#folder = (await this.#endAll(shell.key, shell.pid)) || this.#folder;
      lives = ending === "exited" && stdout.mark?.key === key;
      return { ending, stdout };
    } finally {
      shell.onData = (bytes) => {
        if (shell.idle.length > IDLE_BYTES) shell.idle = new Marked([shell.key]);
        shell.idle.take(bytes);
      };
      if (!lives) this.#leaveShell();
    }
  }

  #leaveShell(): void {
    this.#shell?.process.leave();
    this.#shell = undefined;
  }

  async restartShell(cwd: string): Promise<void> {
    if (this.#shell !== undefined) await this.#endAll(this.#shell.key);
    this.#leaveShell();
    this.#folder = cwd;
    this.#shell = await this.#open(cwd);
  }

  /** Descriptor 198 is the output, wherever a command's `exec` leads standard output. */
  async #open(cwd: string): Promise<Shell> {
    const key = newKey();
    const held: { shell?: Shell } = {};
    const process = await this.#envd.start(["sh", "-c", MARKED, "sh", key, "bash", "--noprofile", "--norc"], {
      ...{ cwd, stdin: true, onData: (stream, bytes) => stream === "stdout" && held.shell?.onData(bytes) },
    });
    const shell: Shell = { key, process, pid: "", idle: new Marked([key]), onData: () => {} };
    held.shell = shell;
    const options = { timeoutMs: OPEN_MS, maxBytes: LEAST_OUTPUT_BYTES };
    const { ending, stdout } = await this.#inShell(shell, "exec 198>&1; builtin printf %s $$", options);
    shell.pid = new TextDecoder().decode(stdout.content());
    if (ending === "exited" && stdout.mark !== undefined && stdout.mark.key !== key) return shell;
    process.leave();
    throw new AleError("sandbox", `sandbox ${this.id} has no shell to run commands in`, {
      hint: "the template needs bash, sh, cat, tr, tar and readlink",
    });
  }

  /** @returns the folder that process `pid` was in, empty when it is not known. */
  async #endAll(key: string, pid = ""): Promise<string> {
    // In two halves, lest it finds itself.
    const argv = ["sh", "-c", END, "sh", key.slice(0, 8), key.slice(8), pid];
    const { status, exitCode, stdout } = await this.execute(argv, { cwd: "/", timeoutMs: END_MS });
    if (status === "exited" && exitCode !== null) return new TextDecoder().decode(stdout);
    throw new AleError("sandbox", `a command of sandbox ${this.id} could not be ended within ${END_MS} ms`);
  }

  write(path: string, content: Uint8Array): Promise<void> {
    return this.#envd.write(path, content);
  }

  read(path: string, bytes: number): Promise<Uint8Array> {
    return this.#envd.read(path, bytes);
  }

  async end(): Promise<void> {
    this.#leaveShell();
    await this.#delete();
  }
}

/** What a stream brings until a mark with one of `keys`. */
class Marked {
  mark: { readonly key: string; readonly code: number } | undefined;
  length = 0;
  readonly #pattern: RegExp;
  readonly #parts: Uint8Array[] = [];

  constructor(keys: readonly string[]) {
    this.#pattern = new RegExp(`\\x1e(${keys.join("|")}):(\\d+)\\x1e`);
  }

  take(bytes: Uint8Array): void {
    if (this.mark !== undefined) return;
    this.#parts.push(bytes);
    this.length += bytes.length;
    const recent: Uint8Array[] = [];
    let held = 0;
    for (let i = this.#parts.length - 1; i >= 0 && held < bytes.length + MARK_BYTES; i--) {
      const part = this.#parts[i];
      if (part === undefined) break;
      recent.unshift(part);
      held += part.length;
    }
    const found = this.#pattern.exec(Buffer.concat(recent).toString("latin1"));
    if (found?.[1] === undefined) return;
    this.mark = { key: found[1], code: Number(found[2]) };
    this.length += found.index - held;
  }

  content(): Uint8Array {
    return Buffer.concat(this.#parts).subarray(0, this.length);
  }
}

/** The wait for the marks on all `streams`. */
class Wait {
  readonly #what: string;
  readonly #streams: Streams;
  readonly #maxBytes: number;
  readonly #over = Promise.withResolvers<Ending>();

  constructor(what: string, streams: Streams, maxBytes: number) {
    this.#what = what;
    this.#streams = streams;
    this.#maxBytes = maxBytes;
  }

  take(stream: "stdout" | "stderr", bytes: Uint8Array): void {
    this.#streams[stream]?.take(bytes);
    const all = Object.values(this.#streams);
    if (all.every(({ mark }) => mark !== undefined)) this.#over.resolve("exited");
    else if (all.some(({ length }) => length > this.#maxBytes)) this.#over.resolve("output_limit");
  }

  async over(process: EnvdProcess, timeoutMs: number, signal: AbortSignal | undefined): Promise<Ending> {
    const ms = Math.min(LONGEST_MS, timeoutMs);
    const endWait = beginWait("control", this.#what, ms);
    const timer = setTimeout(() => this.#over.resolve("timeout"), ms);
    const abort = () => this.#over.resolve("interrupted");
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
    process.ended.then(
      () => this.#over.resolve("exited"), // without a mark, when what would have written it was killed
      (cause: unknown) =>
        this.#over.reject(new AleError("sandbox", `${this.#what}: ${errorMessage(cause)}`, { cause })),
    );
    try {
      return await this.#over.promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      endWait();
    }
  }
}

function newKey(): string {
  return randomBytes(8).toString("hex");
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function interrupted(signal: AbortSignal | undefined): AleError {
  return new AleError("interrupted", "the command was cancelled", { cause: signal?.reason });
}
