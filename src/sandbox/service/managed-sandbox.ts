/** One sandbox of the service: its record, and what is done in it while it runs. */

import { posix } from "node:path";
import type { Alert } from "../../core/alerts.ts";
import { AleError, errorMessage } from "../../core/errors.ts";
import type { CommandResult, NetworkUsage, SandboxSnapshot } from "../../core/ports.ts";
import type { ConnectionRecord, EnvironmentSpec, NetworkSpec } from "../../core/types.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import type { ExecOptions, SeparateResult } from "../programs.ts";
import type { SandboxStatistics } from "../requests.ts";
import type { StoredRoot } from "../roots.ts";
import { SandboxFiles } from "../sandbox-files.ts";
import { NamedShell, type ShellOptions, type ShellResult, type ShellRunOptions } from "../shells.ts";
import type { ShellState } from "../snapshots.ts";
import { SandboxTerminal, type TerminalOptions } from "../terminals.ts";
import type { Grant } from "./admission.ts";
import { BackgroundCommand, type CommandRequest } from "./background-command.ts";
import type { Clock } from "./clock.ts";
import { CommandLog } from "./command-log.ts";
import { ConnectionHistory } from "./connection-history.ts";
import { BORN, type Lifecycle, type SandboxEvent, type SandboxState, transition } from "./lifecycle.ts";
import { PartMissing, WrongState } from "./refusals.ts";
import { SandboxGuard } from "./sandbox-guard.ts";

/** Shells besides the one of episodes; as in `launcher/init.h`. */
const MAX_SHELLS = 15;
/** Commands in the background that are remembered, running ones included. */
const MAX_COMMANDS = 64;

/** How long a sandbox lives without being asked to. Milliseconds. */
export interface TimeToLive {
  /** Without anything being done in it, until it is stopped. */
  readonly idleMs: number;
  /** Since it was started, until it is stopped; `Infinity`: no limit. */
  readonly totalMs: number;
  /** Stopped, until it is deleted. */
  readonly stoppedMs: number;
  /** Stopped, until it is archived, and not deleted then; omitted or `Infinity`: it is not. */
  readonly archiveMs?: number | undefined;
  /** Archived, until it is deleted; omitted or `Infinity`: never. */
  readonly archivedMs?: number | undefined;
}

export interface SandboxSpec {
  readonly id: string;
  readonly environment: EnvironmentSpec;
  readonly ttl: TimeToLive;
  /** Whatever the maker wants to find again. */
  readonly labels: Readonly<Record<string, string>>;
  /** As `CreateRequest.isGraded`. */
  readonly isGraded: boolean;
}

/** What the shells of a sandbox were when it was forked. */
export interface ShellRecord {
  readonly name: string;
  readonly number: number;
  readonly options: ShellOptions;
  /** `undefined`: it was busy, and starts afresh. */
  readonly state: ShellState | undefined;
}

export interface SandboxPast {
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  readonly life: Lifecycle;
}

export class ManagedSandbox {
  /** Its network is what it was changed to last. */
  spec: SandboxSpec;
  readonly createdAt: number;
  readonly log = new CommandLog();
  readonly guard: SandboxGuard;
  readonly #history = new ConnectionHistory();
  startedAt: number | undefined;
  stoppedAt: number | undefined;
  /** Room it takes up; given back when it is gone. */
  grant: Grant | undefined;
  /** Its files while it is stopped. */
  files: SandboxSnapshot | undefined;
  archivedAt: number | undefined;
  /** What its archive holds; also after it was restored from it. */
  root: StoredRoot | undefined;
  /** Aborted when it is stopped or deleted before it was ready. */
  making = new AbortController();
  readonly #clock: Clock;
  #life: Lifecycle;
  #sandbox: NativeSandbox | undefined;
  #shells = new Map<string, NamedShell>();
  #terminals = new Map<number, SandboxTerminal>();
  #commands = new Map<string, BackgroundCommand>();
  #nextCommand = 1;
  #active = 0;
  #lastUse: number;
  #turn: Promise<unknown> = Promise.resolve();

  /** `past`: what it was in an earlier service. */
  constructor(spec: SandboxSpec, clock: Clock, onAlert: (alert: Alert) => void = () => {}, past?: SandboxPast) {
    this.spec = spec;
    this.guard = new SandboxGuard({ ...spec, onAlert });
    this.#clock = clock;
    this.#lastUse = clock.now();
    this.createdAt = past?.createdAt ?? this.#lastUse;
    this.#life = past?.life ?? BORN;
  }

  get id(): string {
    return this.spec.id;
  }

  get life(): Lifecycle {
    return this.#life;
  }

  get state(): SandboxState {
    return this.#life.state;
  }

  /** @throws IllegalTransition. */
  move(event: SandboxEvent, reason?: string): void {
    this.#life = transition(this.id, this.#life, event, this.#clock.now(), reason);
  }

  /** @throws IllegalTransition when `move` would. */
  checkMove(event: SandboxEvent): void {
    transition(this.id, this.#life, event, 0);
  }

  /** Changes of state wait for one another. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => {});
    return result;
  }

  adopt(sandbox: NativeSandbox | undefined): void {
    this.#sandbox = sandbox;
    this.guard.adopt(sandbox, () => this.#active > 0);
    this.#history.follow(sandbox?.network);
    this.#shells.clear();
    this.#terminals.clear();
    this.touch();
  }

  /** The sandbox itself, whatever state it is in. */
  get native(): NativeSandbox | undefined {
    return this.#sandbox;
  }

  touch(): void {
    this.#lastUse = this.#clock.now();
  }

  /** When nothing has been done in it for too long; `Infinity` while something is. */
  get idleAt(): number {
    return this.#active > 0 ? Number.POSITIVE_INFINITY : this.#lastUse + this.spec.ttl.idleMs;
  }

  /** @throws WrongState unless it is running. */
  get running(): NativeSandbox {
    if (this.state === "running" && this.#sandbox !== undefined) return this.#sandbox;
    throw new WrongState(this.id, this.state);
  }

  /** Runs `work` in the running sandbox, which is not idle meanwhile. */
  async use<T>(work: (sandbox: NativeSandbox) => Promise<T>): Promise<T> {
    const sandbox = this.running;
    this.#active++;
    try {
      return await work(sandbox);
    } finally {
      this.#active--;
      this.touch();
    }
  }

  /** A path of the sandbox; relative ones begin in the working directory. */
  resolve(path: string): string {
    return posix.resolve(this.spec.environment.workdir, path);
  }

  withFiles<T>(work: (files: SandboxFiles) => Promise<T>): Promise<T> {
    return this.use((sandbox) => work(new SandboxFiles(sandbox)));
  }

  exec(argv: readonly string[], options: ExecOptions): Promise<SeparateResult> {
    return this.use(async (sandbox) => {
      this.guard.program(argv);
      const result = await sandbox.execSeparate(argv, options);
      this.#note("exec", argv.join(" "), result);
      return result;
    });
  }

  #note(where: string, command: string, result: CommandResult): void {
    const { status, exitCode, ms, outputBytes, output } = result;
    this.guard.result(result);
    this.log.add({ at: this.#clock.now(), where, command, status, exitCode, ms, outputBytes, output });
  }

  async statistics(): Promise<SandboxStatistics & NetworkUsage> {
    const sandbox = this.#sandbox;
    if (sandbox === undefined) throw new WrongState(this.id, this.state);
    return { ...(await sandbox.statistics()), ...this.#history.usage };
  }

  // ---- network

  /** The newest thousand connections that have ended, the oldest first, and what all of them came to. */
  get connections(): { readonly entries: readonly ConnectionRecord[]; readonly usage: NetworkUsage } {
    return { entries: this.#history.entries, usage: this.#history.usage };
  }

  /** From this moment on it may reach what `network` says, and so may what is forked from it. */
  changeNetwork(network: NetworkSpec): Promise<void> {
    return this.use(async (sandbox) => {
      const change = sandbox.network.change(network);
      const { environment } = this.spec;
      this.spec = { ...this.spec, environment: { ...environment, network: sandbox.network.spec } };
      await change;
    });
  }

  // ---- shells

  get shells(): readonly NamedShell[] {
    return [...this.#shells.values()];
  }

  /** @throws AleError("usage") when there is a shell of that name, or no room for another. */
  openShell(name: string, options: Partial<ShellOptions> = {}): Promise<NamedShell> {
    return this.use(async (sandbox) => {
      if (this.#shells.has(name))
        throw new AleError("usage", `sandbox ${this.id} has a shell ${name} already`, {
          hint: "close it, or take another name",
        });
      const taken = new Set([...this.#shells.values()].map((shell) => shell.number));
      const number = Array.from({ length: MAX_SHELLS }, (_, i) => i + 1).find((n) => !taken.has(n));
      if (number === undefined)
        throw new AleError("usage", `sandbox ${this.id} has ${MAX_SHELLS} shells, the most there can be`, {
          hint: "close one",
        });
      const { cwd = this.spec.environment.workdir, ...rest } = options;
      const shell = await NamedShell.open(sandbox, number, name, { cwd, ...rest });
      this.#shells.set(name, shell);
      return shell;
    });
  }

  /** @throws PartMissing when there is none of that name. */
  shell(name: string): NamedShell {
    const shell = this.#shells.get(name);
    if (shell !== undefined) return shell;
    throw new PartMissing(this.id, `shell ${name}`, "open it first");
  }

  runInShell(name: string, command: string, options: ShellRunOptions): Promise<ShellResult> {
    return this.use(async () => {
      this.guard.command(command);
      const result = await this.shell(name).run(command, options);
      this.#note(name, command, result);
      return result;
    });
  }

  closeShell(name: string): Promise<void> {
    return this.use(async () => {
      const shell = this.shell(name);
      this.#shells.delete(name);
      await shell.close();
    });
  }

  /** What is needed to open the shells again elsewhere. */
  describeShells(): Promise<ShellRecord[]> {
    const describe = async (shell: NamedShell): Promise<ShellRecord> => {
      const { name, number, options } = shell;
      return { name, number, options, state: await shell.state() };
    };
    return Promise.all(this.shells.map(describe));
  }

  async reopenShells(records: readonly ShellRecord[]): Promise<void> {
    const sandbox = this.running;
    this.#shells.clear();
    this.#terminals.clear();
    for (const { name, number, options, state } of records) {
      const shell = await NamedShell.open(sandbox, number, name, options);
      if (state !== undefined) await shell.restore(state);
      this.#shells.set(name, shell);
    }
  }

  // ---- terminals

  openTerminal(options: TerminalOptions): Promise<SandboxTerminal> {
    return this.use(async (sandbox) => {
      this.guard.program(options.argv);
      const terminal = await SandboxTerminal.open(sandbox, options);
      this.#terminals.set(terminal.number, terminal);
      this.log.add({
        ...{ at: this.#clock.now(), where: "terminal", command: options.argv.join(" "), status: "started" },
        ...{ exitCode: null, ms: 0, outputBytes: 0, output: new Uint8Array(0) },
      });
      return terminal;
    });
  }

  /** @throws PartMissing when there is none of that number. */
  terminal(number: number): SandboxTerminal {
    const terminal = this.#terminals.get(number);
    if (terminal !== undefined) return terminal;
    throw new PartMissing(this.id, `terminal ${number}`, "open one");
  }

  closeTerminal(number: number): Promise<void> {
    return this.use(async () => {
      const terminal = this.terminal(number);
      this.#terminals.delete(number);
      await terminal.close();
    });
  }

  // ---- commands in the background

  get commands(): readonly BackgroundCommand[] {
    return [...this.#commands.values()];
  }

  /** Starts a command that outlives the request; its whole output goes to a file of the sandbox. */
  startCommand(request: CommandRequest): Promise<BackgroundCommand> {
    return this.use(async (sandbox) => {
      this.guard.program(request.argv);
      this.#makeRoomForCommand();
      const id = `c${this.#nextCommand++}`;
      const command = BackgroundCommand.start(sandbox, id, request, this.#clock);
      this.#commands.set(id, command);
      this.#active++; // a sandbox in which something runs is not idle
      command.ended.then((result) => {
        this.#active--;
        this.touch();
        if (result !== undefined) this.#note("command", request.argv.join(" "), result);
      });
      return command;
    });
  }

  #makeRoomForCommand(): void {
    if (this.#commands.size < MAX_COMMANDS) return;
    const finished = [...this.#commands.values()].find((command) => command.state !== "running");
    if (finished === undefined)
      throw new AleError("usage", `sandbox ${this.id} runs ${MAX_COMMANDS} commands already`, { hint: "end some" });
    this.#commands.delete(finished.id);
  }

  /** @throws PartMissing when there is none of that name. */
  command(id: string): BackgroundCommand {
    const command = this.#commands.get(id);
    if (command !== undefined) return command;
    throw new PartMissing(this.id, `command ${id}`, "list its commands");
  }

  /** Why it ended, for messages. */
  get lastReason(): string {
    return this.#life.history.at(-1)?.reason ?? "";
  }

  /** Ends what is there, whatever it takes; errors on the way are of no use to anybody. */
  async discard(): Promise<string | undefined> {
    const problems: string[] = [];
    const attempt = async (work: PromiseLike<void> | undefined) => {
      try {
        await work;
      } catch (error) {
        problems.push(errorMessage(error));
      }
    };
    this.guard.adopt(undefined, () => false);
    await attempt(this.#sandbox?.destroy());
    await attempt(this.files?.[Symbol.asyncDispose]());
    this.#sandbox = this.files = undefined;
    this.grant?.release();
    this.grant = undefined;
    return problems[0];
  }
}
