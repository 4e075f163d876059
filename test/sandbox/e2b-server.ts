/**
 * E2B's protocol over this machine's sandboxes, for the tests of its client: control plane and envd at one address, told apart by
 * header. Programs without standard input are sent when they ended; those with one run on a terminal, between two pipes.
 */

import { AleError, errorMessage } from "../../src/core/errors.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { ProgramMissing } from "../../src/sandbox/programs.ts";
import type { NativeSandboxProvider } from "../../src/sandbox/supervisor.ts";
import { SandboxTerminal } from "../../src/sandbox/terminals.ts";
import { ENVIRONMENT } from "./support.ts";

export const KEY = "e2b_0123456789abcdef";
const PIPED = `stty raw -echo; echo; "$@" 2>/dev/null < <(exec cat) | cat`;

interface Held {
  readonly sandbox: NativeSandbox;
  readonly token: string;
  readonly terminals: Map<number, SandboxTerminal>;
  expiry: Timer;
}

interface Start {
  readonly process: { cmd: string; args?: string[]; cwd?: string; envs?: Record<string, string> };
  readonly stdin?: boolean;
}

type Events = AsyncGenerator<object, void>;

const refuse = (status: number, message: string) => Response.json({ code: status, message }, { status });

export class E2bServer implements AsyncDisposable {
  readonly held = new Map<string, Held>();
  /** Bodies of requests to make and to extend sandboxes. */
  readonly asked: { templateID?: string; timeout: number; allow_internet_access?: boolean; secure?: boolean }[] = [];
  /** More than these are refused. */
  quota = 100;
  readonly #provider: NativeSandboxProvider;
  readonly #server: Bun.Server<undefined>;
  #pids = 0;

  constructor(provider: NativeSandboxProvider) {
    this.#provider = provider;
    this.#server = Bun.serve({
      ...{ port: 0, hostname: "127.0.0.1", idleTimeout: 0 },
      fetch: (request) => this.#answer(request).catch((error: unknown) => refuse(500, errorMessage(error))),
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.port}`;
  }

  async end(id: string): Promise<boolean> {
    const held = this.held.get(id);
    if (held === undefined) return false;
    this.held.delete(id);
    clearTimeout(held.expiry);
    await held.sandbox.destroy();
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of this.held.keys()) await this.end(id);
    await this.#server.stop(true);
  }

  async #answer(request: Request): Promise<Response> {
    const id = request.headers.get("E2b-Sandbox-Id");
    if (id === null) return this.#control(request);
    const held = this.held.get(id);
    if (held === undefined) return refuse(502, "The sandbox was not found");
    if (request.headers.get("X-Access-Token") !== held.token) return refuse(401, "no such token");
    const { pathname, searchParams } = new URL(request.url);
    const user = pathname === "/files" ? searchParams.get("username") : request.headers.get("Authorization");
    if (user !== "root" && user !== `Basic ${btoa("root:")}`) return refuse(401, "no such user");
    if (pathname === "/files") return this.#file(held, request, searchParams.get("path") ?? "");
    if (pathname === "/process.Process/Start") return this.#start(held, request);
    if (pathname !== "/process.Process/SendInput") return refuse(404, "no such call");
    const { process, input } = (await request.json()) as { process: { pid: number }; input: { stdin: string } };
    const terminal = held.terminals.get(process.pid);
    if (terminal === undefined) return refuse(404, `process with pid ${process.pid} not found`);
    await terminal.write(Buffer.from(input.stdin, "base64"));
    return Response.json({});
  }

  async #control(request: Request): Promise<Response> {
    if (request.headers.get("X-API-Key") !== KEY) return refuse(401, "Invalid API key");
    const { pathname } = new URL(request.url);
    const id = /^\/sandboxes\/([^/]+)/.exec(pathname)?.[1];
    if (request.method === "DELETE" && id !== undefined)
      return (await this.end(id)) ? new Response(null, { status: 204 }) : refuse(404, "sandbox not found");
    const body = (await request.json()) as E2bServer["asked"][number];
    this.asked.push(body);
    if (id === undefined) return this.#create(body);
    const held = this.held.get(id);
    if (held === undefined) return refuse(404, "sandbox not found");
    clearTimeout(held.expiry);
    held.expiry = setTimeout(() => void this.end(id), body.timeout * 1000);
    return new Response(null, { status: 204 });
  }

  async #create({ templateID, timeout }: E2bServer["asked"][number]): Promise<Response> {
    if (templateID !== "base") return refuse(404, `template '${templateID}' not found`);
    if (this.held.size >= this.quota) return refuse(429, "you have reached the maximum number of concurrent sandboxes");
    const sandbox = await this.#provider.createBare(ENVIRONMENT);
    const id = `i${crypto.randomUUID().replaceAll("-", "").slice(0, 20)}`;
    const token = crypto.randomUUID();
    const expiry = setTimeout(() => void this.end(id), timeout * 1000);
    this.held.set(id, { sandbox, token, terminals: new Map(), expiry });
    const answer = { templateID, sandboxID: id, clientID: "", envdVersion: "0.6.4", envdAccessToken: token };
    return Response.json({ ...answer, domain: null }, { status: 201 });
  }

  async #file({ sandbox }: Held, request: Request, path: string): Promise<Response> {
    if (request.method === "GET") {
      const bytes = await sandbox.readFile(path, 64 << 20);
      return bytes === null ? refuse(404, `path '${path}' does not exist`) : new Response(new Uint8Array(bytes));
    }
    const content = (await request.formData()).get("file");
    if (!(content instanceof Blob)) return refuse(400, "no file");
    const stdin = new Uint8Array(await content.arrayBuffer());
    const limits = { timeoutMs: 20_000, maxOutputBytes: 1000, cwd: "/", stdin };
    await sandbox.exec(["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1"', "sh", path], limits);
    return Response.json([{ path, name: path, type: "file" }]);
  }

  async #start(held: Held, request: Request): Promise<Response> {
    const { process, stdin } = JSON.parse(
      Buffer.from(await request.arrayBuffer())
        .subarray(5)
        .toString(),
    ) as Start;
    const pid = ++this.#pids;
    const work = stdin === true ? this.#onTerminal(held, pid, process) : runOnce(held.sandbox, pid, process);
    const messages = envelopes(work);
    const body = new ReadableStream({
      async pull(controller) {
        const { done, value } = await messages.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
    });
    return new Response(body, {
      headers: { "Content-Type": "application/connect+json" },
    });
  }

  async *#onTerminal(held: Held, pid: number, { cmd, args = [], cwd = "/", envs }: Start["process"]): Events {
    const argv = ["bash", "-c", PIPED, "bash", cmd, ...args];
    const terminal = await SandboxTerminal.open(held.sandbox, { argv, cwd, env: envs, rows: 24, columns: 80 });
    held.terminals.set(pid, terminal);
    let ready = false;
    for (;;) {
      const { output, ended, exitCode } = await terminal.read(10_000);
      let bytes = output;
      if (!ready && output.length > 0) {
        ready = true; // from its first line on the terminal changes nothing
        bytes = output.subarray(output.indexOf(10) + 1);
        yield { start: { pid } };
      }
      if (bytes.length > 0) yield { data: { stdout: Buffer.from(bytes).toString("base64") } };
      if (!ended) continue;
      held.terminals.delete(pid);
      yield { end: { exitCode: exitCode ?? -1, exited: true, status: "" } };
      return;
    }
  }
}

async function* runOnce(sandbox: NativeSandbox, pid: number, process: Start["process"]): Events {
  const { cmd, args = [], cwd = "/", envs } = process;
  yield { start: { pid } };
  const options = { cwd, env: envs, timeoutMs: Number.POSITIVE_INFINITY, maxOutputBytes: 16 << 20 };
  const { exitCode, output, errorOutput } = await sandbox.execSeparate([cmd, ...args], options);
  // In pieces, as they come from a pipe.
  for (let i = 0; i < output.length; i += 1000)
    yield { data: { stdout: Buffer.from(output.subarray(i, i + 1000)).toString("base64") } };
  yield { data: { stderr: Buffer.from(errorOutput).toString("base64") } };
  yield { end: { exitCode: exitCode ?? -1, exited: exitCode !== null, status: "" } };
}

/** Connect's stream of JSON messages, the last of them with flag 2. */
async function* envelopes(events: Events): AsyncGenerator<Uint8Array, void> {
  const envelope = (flags: number, message: object) => {
    const json = Buffer.from(JSON.stringify(message));
    const head = Buffer.alloc(5);
    head.writeUInt8(flags, 0);
    head.writeUInt32BE(json.length, 1);
    return Buffer.concat([head, json]);
  };
  try {
    for await (const event of events) yield envelope(0, { event });
    yield envelope(2, {});
  } catch (error) {
    const code =
      error instanceof ProgramMissing ? "invalid_argument" : error instanceof AleError ? "unavailable" : "unknown";
    yield envelope(2, { error: { code, message: errorMessage(error) } });
  }
}
