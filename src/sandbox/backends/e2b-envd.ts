/**
 * What runs in every sandbox of E2B's and starts its programs: envd, of which only this is used: processes (Connect's protocol
 * with JSON) and whole files over HTTP. From `spec/envd` of https://github.com/e2b-dev/E2B.
 */

import { z } from "zod";
import { AleError, deadline, errorMessage } from "../../core/errors.ts";

const REQUEST_MS = 60_000;
const TRANSFER_MS = 300_000;
export const ENVD_PORT = 49983;
/** Connect: the last message of a stream, with what went wrong if anything did. */
const END_OF_STREAM = 2;
const HEAD_BYTES = 5;
/** Proxies between here and there hang up on streams that are silent for long. */
const PING_SECONDS = "50";

const Failure = z.object({ code: z.union([z.string(), z.number()]).optional(), message: z.string().optional() });
const Ended = z.object({ error: Failure.optional() });
const Started = z.object({
  event: z.object({
    start: z.object({ pid: z.number() }).optional(),
    data: z.object({ stdout: z.base64().optional(), stderr: z.base64().optional() }).optional(),
  }),
});

export interface EnvdAddress {
  readonly url: string;
  readonly sandboxId: string;
  readonly token: string | undefined;
}

export interface StartOptions {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Keep standard input open for `EnvdProcess.send`. */
  readonly stdin: boolean;
  readonly onData: (stream: "stdout" | "stderr", bytes: Uint8Array) => void;
}

export class Envd {
  readonly #address: EnvdAddress;

  constructor(address: EnvdAddress) {
    this.#address = address;
  }

  /** Starts a program as root. @throws AleError("sandbox"). */
  async start([cmd, ...args]: readonly string[], options: StartOptions): Promise<EnvdProcess> {
    const { cwd, env = {}, stdin } = options;
    const message = Buffer.from(JSON.stringify({ process: { cmd, args, cwd, envs: env }, stdin }));
    const head = Buffer.alloc(HEAD_BYTES);
    head.writeUInt32BE(message.length, 1);
    const abort = new AbortController();
    const what = `starting ${cmd}`;
    try {
      const response = await this.request(what, REQUEST_MS, "/process.Process/Start", {
        ...{ method: "POST", body: Buffer.concat([head, message]), signal: abort.signal },
        headers: { "Content-Type": "application/connect+json", "Keepalive-Ping-Interval": PING_SECONDS },
      });
      if (response.body === null) throw new AleError("sandbox", `${what}: envd gave no answer`);
      const process = new EnvdProcess(this, abort, response.body, options.onData);
      await deadline(`${what} in sandbox ${this.#address.sandboxId}`, REQUEST_MS, process.started, "sandbox");
      return process;
    } catch (error) {
      abort.abort();
      throw error;
    }
  }

  async send(pid: number, input: string): Promise<void> {
    const stdin = Buffer.from(input).toString("base64");
    const body = JSON.stringify({ process: { pid }, input: { stdin } });
    const headers = { "Content-Type": "application/json" };
    const call = { method: "POST", body, headers };
    const response = await this.request("a shell's input", REQUEST_MS, "/process.Process/SendInput", call);
    await response.body?.cancel();
  }

  async write(path: string, content: Uint8Array): Promise<void> {
    const form = new FormData();
    form.set("file", new File([new Uint8Array(content)], path));
    const response = await this.request(`writing ${path}`, TRANSFER_MS, filePath(path), { method: "POST", body: form });
    await response.body?.cancel();
  }

  /** The first `bytes` of a file, which may have grown since it was looked at. */
  async read(path: string, bytes: number): Promise<Uint8Array> {
    const response = await this.request(`reading ${path}`, REQUEST_MS, filePath(path), { method: "GET" });
    return deadline(`reading ${path}`, TRANSFER_MS, firstBytes(response, bytes), "sandbox");
  }

  /** @throws AleError("sandbox") for every answer but a good one. */
  async request(what: string, ms: number, path: string, init: RequestInit): Promise<Response> {
    const { url, sandboxId, token } = this.#address;
    const headers = new Headers(init.headers);
    headers.set("Authorization", `Basic ${Buffer.from("root:").toString("base64")}`);
    headers.set("Connect-Protocol-Version", "1");
    headers.set("E2b-Sandbox-Id", sandboxId);
    headers.set("E2b-Sandbox-Port", String(ENVD_PORT));
    if (token !== undefined) headers.set("X-Access-Token", token);
    const asking = fetch(`${url}${path}`, { ...init, headers }).catch((error: unknown) => {
      throw new AleError("sandbox", `${what}: sandbox ${sandboxId} does not answer at ${url}: ${errorMessage(error)}`, {
        cause: error,
      });
    });
    const response = await deadline(`${what} in sandbox ${sandboxId}`, ms, asking, "sandbox");
    if (response.ok) return response;
    const reason = await deadline(`${what} in sandbox ${sandboxId}`, REQUEST_MS, failureOf(response), "sandbox");
    // The proxy before it answers 502 for a sandbox that there is not any more.
    if (response.status === 502)
      throw new AleError("sandbox", `${what}: sandbox ${sandboxId} is gone: ${reason}`, {
        hint: "it was ended from outside, or its time was over while nobody could extend it",
      });
    throw new AleError("sandbox", `${what} in sandbox ${sandboxId}: ${reason}`);
  }
}

export class EnvdProcess {
  /** When it runs. */
  readonly started: Promise<void>;
  /** Rejected when the connection is lost or envd gives up; resolved when the program and all that hold its output ended. */
  readonly ended: Promise<void>;
  /** `ended` is settled. */
  over = false;
  readonly #envd: Envd;
  readonly #abort: AbortController;
  readonly #started = Promise.withResolvers<void>();
  #pid = 0;

  constructor(envd: Envd, abort: AbortController, body: ReadableStream<Uint8Array>, onData: StartOptions["onData"]) {
    this.#envd = envd;
    this.#abort = abort;
    this.started = this.#started.promise;
    this.ended = this.#follow(body, onData).finally(() => {
      this.over = true;
    });
    this.ended.then(
      () => this.#started.reject(new AleError("sandbox", "a program ended before it was started")),
      (error: unknown) => this.#started.reject(error),
    );
  }

  async #follow(body: ReadableStream<Uint8Array>, onData: StartOptions["onData"]): Promise<void> {
    for await (const { flags, message } of envelopes(body)) {
      if ((flags & END_OF_STREAM) !== 0) {
        const { error } = right(Ended, message);
        if (error === undefined) return;
        throw new AleError("sandbox", `envd: ${error.message ?? error.code}`);
      }
      const { start, data } = right(Started, message).event;
      if (start !== undefined) {
        this.#pid = start.pid;
        this.#started.resolve();
      }
      if (data?.stdout !== undefined) onData("stdout", Buffer.from(data.stdout, "base64"));
      if (data?.stderr !== undefined) onData("stderr", Buffer.from(data.stderr, "base64"));
    }
    throw new AleError("sandbox", "the connection to a program in a sandbox was lost");
  }

  send(input: string): Promise<void> {
    return this.#envd.send(this.#pid, input);
  }

  /** Listens no longer; does not end the program. */
  leave(): void {
    this.ended.catch(() => {}); // whoever leaves does not ask how it ended
    this.#abort.abort();
  }
}

async function* envelopes(body: ReadableStream<Uint8Array>): AsyncGenerator<{ flags: number; message: unknown }> {
  let parts: Uint8Array[] = [];
  let held = 0;
  let needed = HEAD_BYTES;
  for await (const chunk of body) {
    parts.push(chunk);
    held += chunk.length;
    if (held < needed) continue;
    let bytes = Buffer.concat(parts);
    needed = HEAD_BYTES;
    while (bytes.length >= HEAD_BYTES) {
      needed = HEAD_BYTES + bytes.readUInt32BE(1);
      if (bytes.length < needed) break;
      const flags = bytes.readUInt8(0);
      yield { flags, message: JSON.parse(bytes.subarray(HEAD_BYTES, needed).toString()) };
      bytes = bytes.subarray(needed);
      needed = HEAD_BYTES;
    }
    parts = [bytes];
    held = bytes.length;
  }
}

function right<T>(schema: z.ZodType<T>, message: unknown): T {
  const result = schema.safeParse(message);
  if (result.success) return result.data;
  throw new AleError("sandbox", `what envd says of a program is not right: ${z.prettifyError(result.error)}`);
}

async function firstBytes(response: Response, bytes: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let held = 0;
  if (response.body === null) return new Uint8Array();
  for await (const chunk of response.body) {
    parts.push(chunk);
    held += chunk.length;
    if (held >= bytes) break; // ends the transfer, too
  }
  return Buffer.concat(parts).subarray(0, bytes);
}

function filePath(path: string): string {
  return `/files?${new URLSearchParams({ path, username: "root" })}`;
}

/** What an answer that is not a good one says, or its status. */
export async function failureOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const { message } = Failure.parse(JSON.parse(text));
    if (message !== undefined) return message;
  } catch {
    // not E2B's JSON: a proxy's page
  }
  return `HTTP ${response.status}${text === "" ? "" : ` ${text.slice(0, 200)}`}`;
}
