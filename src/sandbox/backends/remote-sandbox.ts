/**
 * A sandbox of a service elsewhere, of which little is asked: run a program, write a file, read a file, one shell. The rest is
 * done by programs in it: sh, cat, tar, base64 and readlink, which every image has that an agent can work in.
 */

import { posix } from "node:path";
import { AleError } from "../../core/errors.ts";
import type {
  CommandOptions,
  CommandResult,
  LimitEvents,
  Sandbox,
  SandboxArchive,
  SandboxSnapshot,
} from "../../core/ports.ts";
import type { EnvironmentSpec, SandboxFile } from "../../core/types.ts";
import type { ExecOptions, SeparateResult } from "../programs.ts";
import { writeTar } from "../tar.ts";

/** How a program ended there. */
export interface RemoteResult {
  /** `null`: it was ended, because it took too long or wrote too much. */
  readonly exitCode: number | null;
  readonly status: "exited" | "timeout" | "output_limit";
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

export interface RemoteRun {
  readonly cwd: string;
  /** `Infinity`: no limit. */
  readonly timeoutMs: number;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a service has to offer. Errors are `AleError("sandbox")`, and `AleError("interrupted")` when `signal` was aborted. */
export interface RemoteMachine {
  readonly id: string;
  execute(argv: readonly string[], run: RemoteRun): Promise<RemoteResult>;
  /** In the persistent shell. */
  runInShell(command: string, options: CommandOptions): Promise<CommandResult>;
  /** A new shell in `cwd` takes the place of the one that was killed. */
  restartShell(cwd: string): Promise<void>;
  /** Into a folder that exists. */
  write(path: string, content: Uint8Array): Promise<void>;
  read(path: string, bytes: number): Promise<Uint8Array>;
  end(): Promise<void>;
}

const SMALL_MS = 60_000;
const FILES_MS = 300_000;
const KILL_MS = 60_000;
const Exit = { missing: 44, noFile: 45, tooLarge: 46 } as const;

/** Size of a regular file that no link leads to. */
const LOOK = `p=$1
[ -e "$p" ] || [ -L "$p" ] || exit ${Exit.missing}
[ -f "$p" ] && [ "$(readlink -f -- "$p")" = "$p" ] || exit ${Exit.noFile}
size=$(wc -c < "$p") || exit 1
[ "$size" -le "$2" ] || exit ${Exit.tooLarge}
printf %s "$size"`;

/** Ends what was started since the moment $1 (clock ticks after boot) and is not what this script hangs below. */
const KILL = `since=$1; round=0
while [ $round -lt 100 ]; do
  spared=" 1 "; p=$$
  while [ "\${p:-0}" -gt 1 ]; do
    spared="$spared$p "; s=$(cat /proc/$p/stat 2>/dev/null) || break
    s=\${s##*) }; set -- $s; p=$2
  done
  found=
  for d in /proc/[0-9]*; do
    q=\${d#/proc/}
    case "$spared" in *" $q "*) continue;; esac
    s=$(cat $d/stat 2>/dev/null) || continue
    s=\${s##*) }; set -- $s
    [ "$1" = Z ] || [ "$1" = X ] || [ "\${20}" -lt "$since" ] || { kill -9 $q 2>/dev/null && found=1; }
  done
  [ -n "$found" ] || exit 0
  sleep 0.05; round=$((round + 1))
done
exit 1`;

export class RemoteSandbox implements Sandbox {
  readonly isolation: string;
  readonly environment: EnvironmentSpec;
  readonly #machine: RemoteMachine;
  /** When it was handed out, in clock ticks after its machine's boot. */
  readonly #since: string;
  #transfers = 0;
  #destroyed: Promise<void> | undefined;

  private constructor(machine: RemoteMachine, environment: EnvironmentSpec, isolation: string, since: string) {
    this.#machine = machine;
    this.environment = environment;
    this.isolation = isolation;
    this.#since = since;
  }

  /** Makes the working directory of a new machine and opens its shell there. Ends the machine when that fails. */
  static async open(machine: RemoteMachine, environment: EnvironmentSpec, isolation: string): Promise<RemoteSandbox> {
    try {
      const started = await machine.execute(
        [
          "sh",
          "-c",
          'mkdir -p -- "$1" && s=$(cat /proc/$$/stat) && s=${s##*) } && set -- $s && echo "${20}"',
          "sh",
          environment.workdir,
        ],
        { cwd: "/", timeoutMs: SMALL_MS },
      );
      const since = text(started.stdout).trim();
      if (!/^\d+$/.test(since))
        throw new AleError("sandbox", `sandbox ${machine.id} cannot be used: ${text(started.stderr).slice(0, 500)}`, {
          hint: "its image needs sh, cat, tar, base64 and readlink",
        });
      await machine.restartShell(environment.workdir);
      return new RemoteSandbox(machine, environment, isolation, since);
    } catch (error) {
      await machine.end().catch(() => {}); // the first error is the one to tell
      throw error;
    }
  }

  get id(): string {
    return this.#machine.id;
  }

  get alive(): boolean {
    return this.#destroyed === undefined;
  }

  #check(): void {
    if (!this.alive) throw new AleError("sandbox", `sandbox ${this.id} is destroyed`);
  }

  async run(command: string, options: CommandOptions): Promise<CommandResult> {
    this.#check();
    return this.#machine.runInShell(command, options);
  }

  async exec(argv: readonly string[], options: ExecOptions): Promise<CommandResult> {
    // One stream, so that the order is kept.
    return this.execSeparate(["sh", "-c", 'exec "$@" 2>&1', "sh", ...argv], options);
  }

  async execSeparate(argv: readonly string[], options: ExecOptions): Promise<SeparateResult> {
    this.#check();
    const { stdin, timeoutMs, maxOutputBytes, env, cwd, signal } = options;
    const started = performance.now();
    const input = stdin === undefined ? "/dev/null" : await this.#send(stdin);
    const command = [
      "sh",
      "-c",
      'exec < "$1"; [ "$1" = /dev/null ] || rm -f -- "$1"; shift; exec "$@"',
      "sh",
      input,
      ...argv,
    ];
    const { exitCode, status, stdout, stderr } = await this.#machine.execute(command, { cwd, env, timeoutMs, signal });
    const [output, errors] = [keepEnds(stdout, maxOutputBytes), keepEnds(stderr, maxOutputBytes)];
    return {
      ...{ exitCode, status, output, outputBytes: stdout.length, errorOutput: errors, errorOutputBytes: stderr.length },
      truncated: output !== stdout || errors !== stderr,
      ms: performance.now() - started,
    };
  }

  /** Places bytes in a file of their own. */
  async #send(content: Uint8Array): Promise<string> {
    const path = `/tmp/.ale-${++this.#transfers}`;
    await this.#machine.write(path, content);
    return path;
  }

  /** Runs a script of ours. @throws AleError("sandbox") unless it ends with 0 or one of `expected`. */
  async #script(script: string, args: readonly string[], what: string, ms: number, expected: readonly number[] = []) {
    this.#check();
    const result = await this.#machine.execute(["sh", "-c", script, "sh", ...args], { cwd: "/", timeoutMs: ms });
    if (result.exitCode === 0 || (result.exitCode !== null && expected.includes(result.exitCode))) return result;
    const why = result.exitCode === null ? `it took more than ${ms} ms` : text(result.stderr).trim().slice(-500);
    throw new AleError(
      "sandbox",
      `${what} in sandbox ${this.id}: ${why === "" ? `exit code ${result.exitCode}` : why}`,
    );
  }

  async upload(folder: string, files: readonly SandboxFile[]): Promise<void> {
    await this.importFolder(folder, tarOf(files));
  }

  async replaceFolder(folder: string, files: readonly SandboxFile[]): Promise<void> {
    await this.#script('rm -rf -- "$1"', [folder], `replacing ${folder}`, FILES_MS);
    await this.upload(folder, files);
  }

  async importFolder(folder: string, archive: SandboxArchive): Promise<void> {
    this.#check();
    const script = 'mkdir -p -- "$1" && tar -xpf "$2" -C "$1" && rm -f -- "$2"';
    await this.#script(script, [folder, await this.#send(archive)], `placing files in ${folder}`, FILES_MS);
  }

  async exportFolder(folder: string, maxBytes: number): Promise<SandboxArchive> {
    const archive = `/tmp/.ale-${++this.#transfers}`;
    const script =
      '[ -d "$1" ] && [ ! -L "$1" ] || { echo "$1 is no folder" >&2; exit 1; }; tar -cf "$2" -C "$1" . && wc -c < "$2"';
    const made = await this.#script(script, [folder, archive], `exporting ${folder}`, FILES_MS);
    const size = Number(text(made.stdout));
    // Headers and padding come on top of what the files hold.
    if (!(size <= 2 * maxBytes + (1 << 20)))
      throw new AleError("sandbox", `${folder} of sandbox ${this.id} holds more than ${maxBytes} bytes`);
    const bytes = await this.#machine.read(archive, size);
    await this.#script('rm -f -- "$1"', [archive], `exporting ${folder}`, SMALL_MS);
    return bytes;
  }

  async readFile(path: string, maxBytes: number): Promise<Uint8Array | null> {
    if (!posix.isAbsolute(path)) throw new AleError("sandbox", `a path in a sandbox must be absolute, not "${path}"`);
    const look = await this.#script(LOOK, [path, String(maxBytes)], `reading ${path}`, SMALL_MS, Object.values(Exit));
    if (look.exitCode === Exit.missing) return null;
    if (look.exitCode === Exit.noFile)
      throw new AleError("sandbox", `${path} is no regular file, or a link leads to it`);
    if (look.exitCode === Exit.tooLarge) throw new AleError("sandbox", `${path} is larger than ${maxBytes} bytes`);
    return this.#machine.read(path, Number(text(look.stdout)));
  }

  async killAll(): Promise<void> {
    await this.#script(KILL, [this.#since], "ending all processes", KILL_MS);
    await this.#machine.restartShell(this.environment.workdir);
  }

  /** Services elsewhere do not tell which limits were hit; a command shows it by how it ends. */
  async limitEvents(): Promise<LimitEvents> {
    this.#check();
    return { memory: 0, pids: 0, disk: 0 };
  }

  async snapshot(): Promise<SandboxSnapshot> {
    throw new AleError("sandbox", `sandboxes of ${this.isolation} cannot be forked`, {
      hint: "use the backend native, podman or docker for what forks sandboxes, such as [resampling]",
    });
  }

  destroy(): Promise<void> {
    this.#destroyed ??= this.#machine.end();
    return this.#destroyed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function tarOf(files: readonly SandboxFile[]): Uint8Array {
  return writeTar(files.map(({ path, mode, content }) => ({ kind: "file", path, mode, content })));
}

/** Both ends of what is longer than `cap`; the very same bytes when it is not. */
export function keepEnds(bytes: Uint8Array, cap: number): Uint8Array {
  if (bytes.length <= cap) return bytes;
  const note = new TextEncoder().encode(`\n[... ${bytes.length - cap} bytes omitted ...]\n`);
  return Buffer.concat([bytes.subarray(0, cap >> 1), note, bytes.subarray(bytes.length - (cap - (cap >> 1)))]);
}
