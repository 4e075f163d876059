/**
 * The client of a ROCK service (rl-rock 1.11, `rock/admin/entrypoints/`): the REST surface that ROCK's SDKs use and that
 * `ale serve` serves. Nothing is used that only one of the two has.
 */

import { posix } from "node:path";
import { z } from "zod";
import { AleError, deadline, errorMessage } from "../../core/errors.ts";
import type { CommandOptions, CommandResult } from "../../core/ports.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import type { RemoteService } from "./remote-provider.ts";
import { keepEnds, type RemoteMachine, type RemoteResult, type RemoteRun } from "./remote-sandbox.ts";

export interface RockServiceOptions {
  /** Up to, and without, `/apis`. */
  readonly url: string;
  readonly token: string | undefined;
  /** What the service makes sandboxes of; omitted: the environment's profile. */
  readonly image?: string | undefined;
}

const API = "/apis/envs/sandbox/v1";
const REQUEST_MS = 60_000;
const START_MS = 600_000;
/** A command is told its own limit; this is for the service to answer. */
const GRACE_MS = 30_000;
/** ROCK's `execute` needs a number. */
const LONGEST_S = 86_400;
/** The longest a timer can run. */
const LONGEST_MS = 2 ** 31 - 1;
/** Of a file, in one answer: base64 of it stays well below what services keep of an output. */
const READ_BYTES = 3 << 20;
const SESSION = "ale";

const Envelope = z.object({
  status: z.string(),
  message: z.string().nullish(),
  error: z.string().nullish(),
  result: z.unknown(),
});
const Started = z.object({ sandbox_id: z.string().min(1) });
const Executed = z.object({ stdout: z.string(), stderr: z.string(), exit_code: z.number().nullable() });
const Observed = z.object({ output: z.string(), exit_code: z.number().nullable() });

/** The service answered that it could not. */
class Refused extends AleError {}

export class RockService implements RemoteService {
  readonly name = "rock";
  readonly #options: RockServiceOptions;

  constructor(options: RockServiceOptions) {
    this.#options = options;
  }

  async create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<RemoteMachine> {
    const { image = environment.profile } = this.#options;
    const megabytes = (bytes: number) => `${Math.max(1, Math.ceil(bytes / 2 ** 20))}m`;
    const { memoryBytes, diskBytes, cpus } = environment;
    const request = { image, cpus, memory: megabytes(memoryBytes), disk: megabytes(diskBytes) };
    const { sandbox_id: id } = await this.post("/start", request, Started, "starting a sandbox", START_MS, signal);
    return new RockMachine(this, id);
  }

  /** @throws AleError("sandbox") with what the service says, or that it cannot be reached. */
  async post<T>(
    path: string,
    body: Record<string, unknown> | FormData,
    schema: z.ZodType<T>,
    what: string,
    ms: number,
    signal?: AbortSignal,
  ): Promise<T> {
    const sending = this.#send(path, body, signal);
    const answer = await deadline(`${what} at ${this.#options.url}`, Math.min(ms, LONGEST_MS), sending, "sandbox");
    const envelope = Envelope.safeParse(answer);
    if (!envelope.success) throw new AleError("sandbox", `${what}: ${this.#options.url} gave no answer of ROCK's`);
    const { status, error, message } = envelope.data;
    if (status !== "Success")
      throw new Refused("sandbox", `${error ?? message ?? `${what}: refused without a reason`}`);
    const result = schema.safeParse(envelope.data.result);
    if (result.success) return result.data;
    throw new AleError("sandbox", `${what}: the answer of ${this.#options.url} is not right: ${result.error.message}`);
  }

  async #send(path: string, body: Record<string, unknown> | FormData, signal?: AbortSignal): Promise<unknown> {
    const { url, token } = this.#options;
    const form = body instanceof FormData;
    try {
      const response = await fetch(`${url.replace(/\/+$/, "")}${API}${path}`, {
        method: "POST",
        headers: {
          ...(token === undefined ? {} : { Authorization: `Bearer ${token}`, "X-Key": token }),
          ...(form ? {} : { "Content-Type": "application/json" }),
        },
        body: form ? body : JSON.stringify(body),
        ...(signal === undefined ? {} : { signal }),
      });
      if (response.status === 401 || response.status === 403)
        throw new AleError("sandbox", `${url} wants another token (HTTP ${response.status})`, {
          hint: "set sandbox.tokenEnv to the environment variable that holds it; ale serve prints the file with its own",
        });
      return await response.json();
    } catch (error) {
      if (error instanceof AleError) throw error;
      if (signal?.aborted) throw new AleError("interrupted", "the request was cancelled", { cause: error });
      throw new AleError("sandbox", `${url} does not answer as ROCK does: ${errorMessage(error)}`, {
        hint: "look whether the service runs and sandbox.url is its address",
        cause: error,
      });
    }
  }
}

class RockMachine implements RemoteMachine {
  readonly id: string;
  readonly #service: RockService;
  #hasShell = false;

  constructor(service: RockService, id: string) {
    this.#service = service;
    this.id = id;
  }

  async execute(argv: readonly string[], { cwd, env, timeoutMs, signal }: RemoteRun): Promise<RemoteResult> {
    const seconds = Math.min(LONGEST_S, timeoutMs / 1000);
    const body = { sandbox_id: this.id, command: argv, timeout: seconds, cwd, ...(env === undefined ? {} : { env }) };
    try {
      const what = `running ${argv[0]}`;
      const answer = await this.#service.post("/execute", body, Executed, what, seconds * 1000 + GRACE_MS, signal);
      const [stdout, stderr] = [encode(answer.stdout), encode(answer.stderr)];
      return { status: "exited", exitCode: answer.exit_code, stdout, stderr };
    } catch (error) {
      const status = limitOf(error);
      if (status === undefined) throw error;
      return { status, exitCode: null, stdout: encode(""), stderr: encode("") };
    }
  }

  async runInShell(command: string, { timeoutMs, maxOutputBytes, signal }: CommandOptions): Promise<CommandResult> {
    const started = performance.now();
    const body = { sandbox_id: this.id, session: SESSION, command, timeout: timeoutMs / 1000, check: "silent" };
    const ended = (status: CommandResult["status"], exitCode: number | null, output: string): CommandResult => {
      const bytes = encode(output);
      const kept = keepEnds(bytes, maxOutputBytes);
      const ms = performance.now() - started;
      return { status, exitCode, output: kept, outputBytes: bytes.length, truncated: kept !== bytes, ms };
    };
    try {
      const answer = await this.#service.post(
        ...(["/run_in_session", body, Observed, "a command", timeoutMs + GRACE_MS, signal] as const),
      );
      // Where a terminal ends every line so, ROCK takes what is around the text away.
      return ended("exited", answer.exit_code, answer.output === "" ? "" : `${answer.output}\n`);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const code = /^the shell ended with exit code (\d+)/.exec(error.message)?.[1];
      if (code !== undefined) return ended("shell_died", Number(code), "");
      // What is no right command is told instead of run, as bash does it with exit code 2.
      if (/while checking bash command/.test(error.message)) return ended("exited", 2, error.message);
      const status = limitOf(error);
      if (status === undefined) throw error;
      return ended(status, null, "");
    }
  }

  async restartShell(cwd: string): Promise<void> {
    const named = { sandbox_id: this.id, session: SESSION };
    const what = "opening a shell";
    if (this.#hasShell) {
      const closing = this.#service.post("/close_session", named, z.unknown(), what, REQUEST_MS);
      await closing.catch((error: unknown) => {
        if (!(error instanceof Refused)) throw error; // it ended with what was killed
      });
    }
    await this.#service.post("/create_session", named, z.unknown(), what, REQUEST_MS);
    this.#hasShell = true;
    const entered = await this.runInShell(`cd -- '${cwd.replaceAll("'", `'\\''`)}'`, {
      ...{ timeoutMs: REQUEST_MS, maxOutputBytes: 4096 },
    });
    if (entered.exitCode !== 0) throw new AleError("sandbox", `the shell of sandbox ${this.id} cannot enter ${cwd}`);
  }

  async write(path: string, content: Uint8Array): Promise<void> {
    const form = new FormData();
    form.set("sandbox_id", this.id);
    form.set("target_path", path);
    form.set("file", new File([new Uint8Array(content)], posix.basename(path)));
    await this.#service.post("/upload", form, z.unknown(), `writing ${path}`, REQUEST_MS);
  }

  /** `read_file` gives text only. */
  async read(path: string, bytes: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for (let offset = 0; offset < bytes; offset += READ_BYTES) {
      const script = 'tail -c +"$2" -- "$1" | head -c "$3" | base64';
      const argv = ["sh", "-c", script, "sh", path, String(offset + 1), String(READ_BYTES)];
      const { exitCode, stdout } = await this.execute(argv, { cwd: "/", timeoutMs: REQUEST_MS });
      if (exitCode !== 0) throw new AleError("sandbox", `reading ${path} in sandbox ${this.id} failed`);
      parts.push(Buffer.from(new TextDecoder().decode(stdout), "base64"));
    }
    return Buffer.concat(parts);
  }

  async end(): Promise<void> {
    const named = { sandbox_id: this.id };
    const what = `ending sandbox ${this.id}`;
    await this.#service.post("/stop", named, z.unknown(), what, REQUEST_MS);
    const deleting = this.#service.post("/delete", named, z.unknown(), what, REQUEST_MS);
    await deleting.catch((error: unknown) => {
      if (!(error instanceof Refused)) throw error; // services without deletion forget it after a while
    });
  }
}

/** Which limit a refusal is about, by ROCK's words. */
function limitOf(error: unknown): "timeout" | "output_limit" | undefined {
  if (!(error instanceof Refused)) return undefined;
  if (/^timeout/i.test(error.message)) return "timeout";
  return /^the command was ended: it wrote more/.test(error.message) ? "output_limit" : undefined;
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
