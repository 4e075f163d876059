/** The guards of one sandbox of the service: what was raised, over all its restarts. */

import type { Alert } from "../../core/alerts.ts";
import { AleError } from "../../core/errors.ts";
import type { CommandResult } from "../../core/ports.ts";
import type { EnvironmentSpec, Task } from "../../core/types.ts";
import { GuardMonitor } from "../guards/guard-monitor.ts";
import { GuardWatch } from "../guards/guard-watch.ts";
import type { GuardSettings } from "../guards/settings.ts";
import type { NativeSandbox } from "../native-sandbox.ts";
import { guardsOf } from "../profiles.ts";

/** Alerts that are remembered, the newest. */
const MAX_ALERTS = 100;
/** Seconds between looks at a sandbox in which nobody does anything: there may be thousands. */
const IDLE_SECONDS = 60;

export interface SandboxGuardOptions {
  readonly id: string;
  readonly environment: EnvironmentSpec;
  /**
   * Whether the paths of tests and rewards are ours, as in an environment that we grade. In other sandboxes they are their
   * owner's, who may well place tests there.
   */
  readonly isGraded: boolean;
  readonly onAlert: (alert: Alert) => void;
}

export class SandboxGuard {
  readonly #options: SandboxGuardOptions;
  readonly #settings: GuardSettings;
  readonly #alerts: Alert[] = [];
  #stopped: Alert | undefined;
  #watch: GuardWatch | undefined;
  #monitor: GuardMonitor | undefined;

  constructor(options: SandboxGuardOptions) {
    this.#options = options;
    const settings = guardsOf(options.environment.profile);
    const unprotected = { ...settings.protectedWrite, action: "off" as const };
    this.#settings = options.isGraded ? settings : { ...settings, protectedWrite: unprotected };
  }

  /** The oldest first. */
  get alerts(): readonly Alert[] {
    return this.#alerts;
  }

  /** The alert that stopped it since it was last started. */
  get stopped(): Alert | undefined {
    return this.#stopped;
  }

  /** Looks at `sandbox` from now on, or at none. */
  adopt(sandbox: NativeSandbox | undefined, isBusy: () => boolean): void {
    this.#monitor?.[Symbol.dispose]();
    this.#monitor = this.#watch = undefined;
    if (sandbox === undefined) return;
    this.#stopped = undefined;
    const { environment, onAlert } = this.#options;
    const watch = new GuardWatch({
      ...{ settings: this.#settings, environment },
      onAlert: (alert) => {
        this.#alerts.push(alert);
        if (this.#alerts.length > MAX_ALERTS) this.#alerts.shift();
        if (alert.action === "stop") this.#stopped ??= alert;
        onAlert(alert);
      },
    });
    const { pollSeconds } = this.#settings;
    const everySeconds = () => (isBusy() ? pollSeconds : Math.max(pollSeconds, IDLE_SECONDS));
    this.#watch = watch;
    this.#monitor = new GuardMonitor(sandbox, watch, this.#settings, everySeconds);
  }

  /** @throws AleError("usage") when this command, or one before it, stops the sandbox. */
  command(text: string): void {
    this.#watch?.command(text);
    this.#check();
  }

  /** As `command`, for a program with its arguments. */
  program(argv: readonly string[]): void {
    this.#watch?.program(argv);
    this.#check();
  }

  result(result: CommandResult): void {
    this.#watch?.result(result);
  }

  /** At the end of an environment's episode, before it is graded. */
  async lookAtFiles(task: Pick<Task, "environment" | "files">): Promise<void> {
    await this.#monitor?.lookAtFiles(task);
  }

  #check(): void {
    const stopped = this.#stopped;
    if (stopped === undefined) return;
    throw new AleError("usage", `sandbox ${this.#options.id} was stopped by a guard: ${stopped.evidence}`, {
      hint: `it is not run; what guards look for is in sandboxes/${this.#options.environment.profile}.toml`,
    });
  }
}
