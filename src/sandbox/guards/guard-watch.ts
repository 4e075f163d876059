/** All detectors of one sandbox together: what is observed goes in, alerts come out. */

import type { Alert, AlertKind } from "../../core/alerts.ts";
import { AleError } from "../../core/errors.ts";
import type { CommandResult } from "../../core/ports.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import { evidence } from "./evidence.ts";
import { forkStorm, ProcessWatch } from "./fork-storms.ts";
import { LoadWatch, miningIn } from "./mining.ts";
import type { Observation } from "./observation.ts";
import { OutputWatch } from "./output-floods.ts";
import { protectedWriteIn } from "./protected-writes.ts";
import { type ConnectAttempt, ScanWatch, scanIn } from "./scans.ts";
import type { GuardSettings } from "./settings.ts";
import { commandOfProcess, type SimpleCommand, simpleCommands } from "./shell-words.ts";
import { tunnelIn, tunnelTo } from "./tunnels.ts";

/** Where each kind has its settings. */
const SETTING_OF = {
  tunnel: "tunnel",
  scan: "scan",
  mining: "mining",
  protected_write: "protectedWrite",
  fork_storm: "forkStorm",
  output_flood: "outputFlood",
} as const satisfies Record<AlertKind, keyof GuardSettings>;

/** Alerts of one sandbox; what comes after them says nothing new. */
const MAX_ALERTS = 32;

export interface GuardWatchOptions {
  readonly settings: GuardSettings;
  readonly environment: Pick<EnvironmentSpec, "cpus" | "pids">;
  /** Called with each alert as it is raised. */
  readonly onAlert?: (alert: Alert) => void;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

export class GuardWatch {
  readonly #options: GuardWatchOptions;
  readonly #alerts: Alert[] = [];
  readonly #raised = new Set<string>();
  readonly #scans = new ScanWatch();
  readonly #load = new LoadWatch();
  readonly #processes = new ProcessWatch();
  readonly #output = new OutputWatch();
  readonly #stop = new AbortController();
  #turn: number | null = null;

  constructor(options: GuardWatchOptions) {
    this.#options = options;
  }

  /** The oldest first. */
  get alerts(): readonly Alert[] {
    return this.#alerts;
  }

  /** The alert that stops the sandbox, if there is one. */
  get stopped(): Alert | undefined {
    return this.#alerts.find(({ action }) => action === "stop");
  }

  /** Aborted with `stopped`. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** A command that is about to run. @param turn of the episode; null outside of episodes. */
  command(text: string, turn: number | null = null): void {
    this.#turn = turn;
    this.#look(simpleCommands(text), text);
  }

  /** A program that is about to run, with its arguments. */
  program(argv: readonly string[]): void {
    this.#look(commandOfProcess(argv), argv.join(" "));
  }

  result(result: Pick<CommandResult, "status" | "outputBytes">): void {
    this.#raise("output_flood", this.#output.look(result, this.#options.settings.outputFlood));
  }

  observe(seen: Observation): void {
    const { settings, environment } = this.#options;
    this.#raise("mining", this.#load.look(seen, environment.cpus, settings.mining));
    this.#raise("fork_storm", this.#processes.look(seen.processes.length, environment.pids, settings.forkStorm.share));
    for (const { argv } of seen.processes) this.program(argv);
  }

  connection(attempt: ConnectAttempt): void {
    this.#raise("tunnel", tunnelTo(attempt));
    this.#raise("scan", this.#scans.look(attempt, this.#options.settings.scan));
  }

  /** @param refused times that the kernel refused the sandbox a process. */
  processLimit(refused: number): void {
    this.#raise("fork_storm", forkStorm(refused, this.#options.environment.pids));
  }

  /** Protected paths that something was found at. */
  written(paths: readonly string[]): void {
    for (const path of paths) this.#raise("protected_write", `${path} was written to`);
  }

  #look(commands: readonly SimpleCommand[], text: string): void {
    const { protectedWrite } = this.#options.settings;
    for (const command of commands) {
      const write = protectedWriteIn(command, protectedWrite.paths);
      this.#raise("protected_write", write && `writes to ${write}`, text);
      this.#raise("tunnel", tunnelIn(command), text);
      this.#raise("scan", scanIn(command), text);
      this.#raise("mining", miningIn(command), text);
    }
  }

  /** Each finding once in a turn. */
  #raise(kind: AlertKind, found: string | undefined, where?: string): void {
    if (found === undefined) return;
    const { action } = this.#options.settings[SETTING_OF[kind]];
    const key = `${kind}/${this.#turn}/${found}`;
    if (action === "off" || this.#alerts.length >= MAX_ALERTS || this.#raised.has(key)) return;
    this.#raised.add(key);
    const at = this.#options.now?.() ?? Date.now();
    const shown = where === undefined ? evidence(found) : evidence(found, ": ", where);
    const alert: Alert = { kind, at, turn: this.#turn, evidence: shown, action };
    this.#alerts.push(alert);
    this.#options.onAlert?.(alert);
    if (action === "stop") this.#stop.abort(new AleError("interrupted", `a guard stopped the sandbox: ${kind}`));
  }
}
