/** The control process's end of the launcher: requests out, replies in, and what happens when it dies. */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { FileSink, Subprocess } from "bun";
import { AleError, deadline, errorMessage } from "../core/errors.ts";
import { TimeLimit } from "../core/time-limit.ts";
import { beginWait } from "../core/waits.ts";
import { HEARTBEAT, type HeartbeatOptions, watchLauncher } from "./heartbeat.ts";
import { launcherPath } from "./launcher-path.ts";
import { namespaceHint } from "./namespace-hint.ts";
import { concat, encodeMessage, encodeSettings, Flag, type Frame, FrameReader, Op, type OpCode } from "./protocol.ts";
import { forgetLauncher, type LauncherRecord, reapGroupsBeside, recordLauncher } from "./registry.ts";

const START_MS = 10_000;
const STOP_MS = 3_000;
const DESTROY_MS = 20_000;
/** Times a launcher is started when a signal ends it before it has answered. */
const START_ATTEMPTS = 3;
const KEPT_STDERR = 4_000;
/** In the launcher's folder, which is its current one. */
export const SOCKETS = "net";
/** The longest a timer can run. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** `missing`: the launcher says that what was asked for does not exist. */
export interface Reply {
  readonly payload: Uint8Array;
  readonly missing: boolean;
}

interface Pending {
  readonly sandbox: number;
  readonly op: OpCode;
  readonly parts: Uint8Array[];
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: AleError) => void;
  readonly expire: () => void;
  limit: TimeLimit;
  /** What was left of the wait when its sandbox was paused. */
  left?: number | undefined;
}

export interface LauncherOptions {
  readonly stateDir: string;
  /** `off`: do not use control groups even where they can be had. */
  readonly cgroups: "auto" | "off";
  /** `off`: as an ordinary user, sandboxes with the one id of that user even where there are subordinate ids. */
  readonly subids: "auto" | "off";
  readonly heartbeat?: HeartbeatOptions | undefined;
}

interface Reached {
  readonly isolation: string;
  readonly pausing: "freeze" | "stop";
}

/** A signal ended the launcher while it was starting; that says nothing about what this machine allows. */
class KilledAtStart extends AleError {}

export class LauncherClient {
  readonly isolation: string;
  /** How a sandbox is paused: by its control group, or with a signal to each process. */
  readonly pausing: "freeze" | "stop";
  /** Resolves with the reason when the launcher has ended, however that came about. */
  readonly ended: Promise<string>;
  /** Folder of the unix sockets between the launcher and this process, which nobody else may enter. */
  readonly socketFolder: string;
  readonly #record: LauncherRecord;
  readonly #connection: Connection;

  private constructor(connection: Connection, reached: Reached, record: LauncherRecord) {
    this.#connection = connection;
    this.isolation = reached.isolation;
    this.pausing = reached.pausing;
    this.#record = record;
    this.socketFolder = join(record.folder, SOCKETS);
    this.ended = connection.ended;
  }

  /**
   * Starts a launcher.
   * @throws AleError("sandbox") naming what this machine does not allow.
   */
  static async start(options: LauncherOptions): Promise<LauncherClient> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await LauncherClient.#start(options);
      } catch (error) {
        if (!(error instanceof KilledAtStart) || attempt === START_ATTEMPTS) throw error;
      }
    }
  }

  static async #start(options: LauncherOptions): Promise<LauncherClient> {
    const path = await launcherPath();
    const record = await recordLauncher(options.stateDir);
    const stage = join(record.folder, "stage");
    await mkdir(stage, { recursive: true });
    await mkdir(join(record.folder, SOCKETS), { recursive: true, mode: 0o700 });
    // An empty environment: the sandboxes' inits are clones of this process.
    const connection = new Connection([path], { name: "the sandbox launcher", env: {} });
    try {
      record.launcher = connection.pid;
      await record.save();
      const settings = encodeSettings([
        ["stage", stage],
        ["name", record.name],
        ["folder", record.folder],
        ["cgroups", options.cgroups === "auto" ? 1 : 0],
        ["subids", options.subids === "auto" ? 1 : 0],
      ]);
      const reply = await connection.request(Op.hello, 0, settings, "starting the sandbox launcher", START_MS);
      const answers = new TextDecoder().decode(reply.payload).split("\0");
      const all = (key: string) =>
        answers.filter((line) => line.startsWith(`${key}=`)).map((line) => line.slice(key.length + 1));
      record.cgroups = all("cgroup");
      await record.save();
      await reapGroupsBeside(record.cgroups);
      const [isolation] = all("isolation");
      if (isolation === undefined) throw new AleError("sandbox", "the launcher did not name its isolation level");
      const pausing = all("pause")[0] === "freeze" ? "freeze" : "stop";
      void watchLauncher(connection, options.heartbeat ?? HEARTBEAT);
      return new LauncherClient(connection, { isolation, pausing }, record);
    } catch (error) {
      const ThisError = connection.killed ? KilledAtStart : AleError;
      await connection.stop();
      await forgetLauncher(record);
      if (!(error instanceof AleError)) throw error;
      throw new ThisError("sandbox", `sandboxes cannot be made on this machine: ${error.message}`, {
        hint: error.hint ?? startHint(error.message),
        cause: error,
      });
    }
  }

  get pid(): number {
    return this.#connection.pid;
  }

  /** For what lies on disk while it lives, and goes with it. */
  get folder(): string {
    return this.#record.folder;
  }

  get alive(): boolean {
    return this.#connection.alive;
  }

  /** Sends one message and waits for its reply, at most `timeoutMs`; `what` names the wait. */
  request(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): Promise<Reply> {
    return this.#connection.request(op, sandbox, payload, what, timeoutMs);
  }

  /** Like `request`, and returns the request's number for `cancel`. */
  start(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): [number, Promise<Reply>] {
    return this.#connection.start(op, sandbox, payload, what, timeoutMs);
  }

  cancel(request: number, sandbox: number): void {
    this.#connection.cancel(request, sandbox);
  }

  /** Calls `listener` once when the sandbox ends by itself. */
  onGone(sandbox: number, listener: (reason: string) => void): void {
    this.#connection.gone.set(sandbox, listener);
  }

  /** Rejects what is still waited for from a sandbox that is being destroyed. */
  forget(sandbox: number): void {
    this.#connection.abandon(sandbox, `sandbox s${sandbox} was destroyed`);
  }

  /** Stops the clocks of what is waited for from a sandbox that is paused, until `goOn`. */
  holdOff(sandbox: number): void {
    this.#connection.holdOff(sandbox);
  }

  goOn(sandbox: number): void {
    this.#connection.goOn(sandbox);
  }

  /** Ends a sandbox; of one that is gone already, nothing. */
  async destroy(sandbox: number): Promise<void> {
    await this.request(Op.destroy, sandbox, new Uint8Array(0), `destroying sandbox s${sandbox}`, DESTROY_MS);
  }

  /** Lets go of a frozen sandbox's files. Nobody waits for it: what stands on them keeps them. */
  dropLayer(layer: number): void {
    if (this.alive) this.#connection.send(encodeMessage(Op.drop, 0, 0, encodeSettings([["layer", layer]])));
  }

  /** Ends every sandbox and the launcher. */
  async close(): Promise<void> {
    await this.#connection.stop();
    await forgetLauncher(this.#record);
  }
}

/** What to do about the usual reasons why namespaces cannot be made. */
function startHint(message: string): string {
  if (/user namespace|new namespaces|uid_map|gid_map/.test(message)) return `${namespaceHint()}; then \`ale doctor\``;
  if (/mount|pivot_root|proc/.test(message)) return "run outside a restricted container, or start it with --privileged";
  return "run `ale doctor`, which tries each part by itself";
}

export interface ConnectionOptions {
  /** What the process is called in messages. */
  readonly name: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** In a session of its own, where Ctrl-C does not reach it; the launcher sees to that itself. */
  readonly detached?: boolean;
}

/** A process that speaks frames on its standard input and output, and the requests in flight. */
export class Connection {
  readonly gone = new Map<number, (reason: string) => void>();
  readonly ended: Promise<string>;
  readonly #process: Subprocess<"pipe", "pipe", "pipe">;
  readonly #input: FileSink;
  readonly #pending = new Map<number, Pending>();
  #nextRequest = 1;
  #flushing = false;
  readonly #name: string;
  #reason: string | undefined;
  #stderr = "";

  constructor(command: readonly string[], { name, env, detached = false }: ConnectionOptions) {
    this.#name = name;
    this.#process = Bun.spawn([...command], {
      ...{ stdin: "pipe", stdout: "pipe", stderr: "pipe", cwd: "/" },
      ...{ env: { ...env }, detached },
    });
    this.#input = this.#process.stdin;
    this.ended = this.#read();
    this.#readErrors();
  }

  get pid(): number {
    return this.#process.pid;
  }

  get alive(): boolean {
    return this.#reason === undefined;
  }

  /** Whether a signal has ended it. */
  get killed(): boolean {
    return this.#process.signalCode !== null;
  }

  async #readErrors(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of this.#process.stderr)
      this.#stderr = (this.#stderr + decoder.decode(chunk, { stream: true })).slice(-KEPT_STDERR);
  }

  async #read(): Promise<string> {
    const reader = new FrameReader();
    try {
      for await (const chunk of this.#process.stdout) for (const frame of reader.push(chunk)) this.#receive(frame);
    } catch (error) {
      this.kill(errorMessage(error));
    }
    await this.#process.exited;
    const { signalCode, exitCode } = this.#process;
    const told = this.#stderr.trim();
    const how = signalCode === null ? `ended with code ${exitCode}` : `was ended by ${signalCode}`;
    this.#reason = `${this.#name} ${how}${told === "" ? "" : `: ${told}`}`;
    const error = new AleError("sandbox", this.#reason, { hint: "the next sandbox starts a new one" });
    for (const pending of this.#pending.values()) {
      pending.limit.stop();
      pending.reject(error);
    }
    this.#pending.clear();
    for (const listener of this.gone.values()) listener(this.#reason);
    this.gone.clear();
    return this.#reason;
  }

  #receive(frame: Frame): void {
    if (frame.op === Op.gone) {
      this.#sandboxGone(frame);
      return;
    }
    const pending = this.#pending.get(frame.request);
    // A late reply after a deadline, or one that a sandbox made up: the request must be its own.
    if (pending === undefined || pending.sandbox !== frame.sandbox) return;
    pending.parts.push(frame.payload);
    if (frame.flags & Flag.more) return;
    this.#pending.delete(frame.request);
    pending.limit.stop();
    const missing = (frame.flags & Flag.missing) !== 0;
    if (missing || (frame.flags & Flag.error) === 0) pending.resolve({ payload: concat(pending.parts), missing });
    else pending.reject(new AleError("sandbox", new TextDecoder().decode(frame.payload)));
  }

  #sandboxGone(frame: Frame): void {
    const reason = new TextDecoder().decode(frame.payload);
    this.gone.get(frame.sandbox)?.(reason);
    this.abandon(frame.sandbox, `sandbox s${frame.sandbox} is gone: ${reason}`);
  }

  abandon(sandbox: number, reason: string): void {
    this.gone.delete(sandbox);
    for (const [request, pending] of this.#pending) {
      if (pending.sandbox !== sandbox || pending.op === Op.destroy || pending.op === Op.limits) continue;
      this.#pending.delete(request);
      pending.limit.stop();
      pending.reject(new AleError("sandbox", reason));
    }
  }

  holdOff(sandbox: number): void {
    for (const pending of this.#pending.values()) {
      if (pending.sandbox !== sandbox) continue;
      pending.limit.stop();
      pending.left = pending.limit.left;
    }
  }

  goOn(sandbox: number): void {
    for (const pending of this.#pending.values()) {
      if (pending.sandbox !== sandbox || pending.left === undefined) continue;
      pending.limit = new TimeLimit(pending.left, pending.expire);
      pending.left = undefined;
    }
  }

  request(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): Promise<Reply> {
    return this.start(op, sandbox, payload, what, timeoutMs)[1];
  }

  start(op: OpCode, sandbox: number, payload: Uint8Array, what: string, timeoutMs: number): [number, Promise<Reply>] {
    const request = this.#nextRequest;
    this.#nextRequest = request === 0xffffffff ? 1 : request + 1;
    if (this.#reason !== undefined) return [request, Promise.reject(new AleError("sandbox", this.#reason))];
    const reply = new Promise<Reply>((resolve, reject) => {
      const expire = () => {
        this.#pending.delete(request);
        reject(new AleError("sandbox", `${what}: ${this.#name} did not answer within ${timeoutMs} ms`));
      };
      const limit = new TimeLimit(Math.min(timeoutMs, MAX_TIMER_MS), expire);
      this.#pending.set(request, { sandbox, op, parts: [], resolve, reject, expire, limit });
    });
    this.send(encodeMessage(op, request, sandbox, payload));
    const who = sandbox === 0 ? "sandboxes" : `sandbox s${sandbox}`;
    const endWait = beginWait(who, what.replace(/ in sandbox s\d+$/, ""), timeoutMs);
    reply.then(endWait, endWait);
    return [request, reply];
  }

  cancel(request: number, sandbox: number): void {
    this.send(encodeMessage(Op.cancel, request, sandbox, new Uint8Array(0)));
  }

  send(bytes: Uint8Array): void {
    if (this.#reason !== undefined) return;
    this.#input.write(bytes);
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(async () => {
      this.#flushing = false;
      try {
        await this.#input.flush();
      } catch {
        // A dead launcher is told by the end of its output; here its pipe is merely broken.
      }
    });
  }

  /** Ends it at once, for a reason that those who wait for it are told. */
  kill(reason: string): void {
    if (this.#reason !== undefined) return;
    this.#stderr += `\n${reason}`;
    this.#process.kill("SIGKILL");
  }

  /** What reads the frames ends when its input does. */
  async stop(): Promise<void> {
    await Promise.resolve(this.#input.end()).catch(() => {});
    try {
      await deadline(`the end of ${this.#name}`, STOP_MS, this.ended, "sandbox");
    } catch {
      this.#process.kill("SIGKILL");
      await this.ended;
    }
  }
}
