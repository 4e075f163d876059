/** Looks at a sandbox from outside, now and then, and tells its `GuardWatch`. */

import { posix } from "node:path";
import { AleError } from "../../core/errors.ts";
import type { Sandbox } from "../../core/ports.ts";
import type { Task } from "../../core/types.ts";
import type { GuardWatch } from "./guard-watch.ts";
import type { Observation } from "./observation.ts";
import type { GuardSettings } from "./settings.ts";

/** What a sandbox can show of itself besides what the port asks for; backends that cannot are judged by commands alone. */
export interface Observable {
  /** Processes. */
  observe(): Promise<Observation>;
  /** Those of the paths that this sandbox wrote to. */
  writtenPaths(paths: readonly string[]): Promise<readonly string[]>;
}

function observable(sandbox: Sandbox): Observable | undefined {
  const { observe, writtenPaths } = sandbox as Sandbox & Partial<Observable>;
  return observe && writtenPaths && (sandbox as Sandbox & Observable);
}

export class GuardMonitor implements Disposable {
  readonly #sandbox: Observable | undefined;
  readonly #watch: GuardWatch;
  readonly #settings: GuardSettings;
  readonly #everySeconds: () => number;
  #timer: Timer | undefined;

  /** Begins to look every so often, until it is disposed of. */
  constructor(
    sandbox: Sandbox,
    watch: GuardWatch,
    settings: GuardSettings,
    everySeconds: () => number = () => settings.pollSeconds,
  ) {
    this.#everySeconds = everySeconds;
    this.#sandbox = observable(sandbox);
    this.#watch = watch;
    this.#settings = settings;
    sandbox.network?.onConnection((connection) => {
      if (connection.kind === "proxy" || connection.kind === "dns") watch.connection(connection);
    });
    this.#schedule();
  }

  #schedule(): void {
    if (this.#sandbox === undefined) return;
    this.#timer = setTimeout(() => void this.#poll(), this.#everySeconds() * 1000);
    this.#timer.unref();
  }

  async #poll(): Promise<void> {
    const timer = this.#timer;
    await this.look().catch(ignoreSandbox); // a sandbox that is gone or paused is told by whoever uses it
    if (this.#timer === timer) this.#schedule();
  }

  async look(): Promise<void> {
    if (this.#sandbox !== undefined) this.#watch.observe(await this.#sandbox.observe());
  }

  /** When the agent is done, before anything of ours is placed where it must not write. */
  async lookAtFiles({ environment, files }: Pick<Task, "environment" | "files">): Promise<void> {
    const { action, paths, shadows } = this.#settings.protectedWrite;
    if (this.#sandbox === undefined || action === "off") return;
    const shipped = new Set(files.map(({ path }) => path.split("/")[0]));
    const names = shadows.filter((name) => !shipped.has(name));
    const wanted = [...paths, ...names.map((name) => posix.join(environment.workdir, name))];
    const found = await this.#sandbox.writtenPaths(wanted).catch(ignoreSandbox);
    this.#watch.written(found ?? []);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

function ignoreSandbox(error: unknown): undefined {
  if (!(error instanceof AleError)) throw error;
  return undefined;
}
