/**
 * A reward function of the user's: code, so it runs only when the experiment names the hash of what is in the file, and then
 * in a process of its own that knows nothing of the run's environment. That process runs as the same user, without a sandbox:
 * the hash says that somebody looked.
 */

import type { RewardConfig } from "../config/reward.ts";
import { AleError, deadline } from "../core/errors.ts";
import { selfCommand } from "../device/self.ts";
import type { FromFunction, ToFunction } from "../reward/function-role.ts";
import type { RewardEpisode } from "../reward/shaping.ts";
import { placeTrusted, rewardCode } from "./trusted-code.ts";

const START_MS = 30_000;
/** What was run, beside the results. */
const COPY = "reward.ts";

/** A running reward function. */
export class RewardFunction implements AsyncDisposable {
  readonly #path: string;
  readonly #limitMs: number;
  readonly #process: Bun.Subprocess;
  readonly #waiting = new Map<number, { resolve(value: number): void; reject(error: Error): void }>();
  readonly #ready = Promise.withResolvers<void>();
  #next = 0;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(path: string, copy: string, seconds: number) {
    this.#path = path;
    this.#limitMs = seconds * 1000;
    const { PATH = "", TMPDIR = "/tmp" } = process.env;
    this.#process = Bun.spawn({
      cmd: selfCommand("reward-function", [copy]),
      env: { PATH, TMPDIR },
      stdio: ["ignore", "ignore", "inherit"],
      serialization: "json",
      ipc: (message: FromFunction) => this.#receive(message),
    });
    void this.#process.exited.then((code) => this.#end(this.#failure(`its process ended with code ${code}`)));
  }

  /** @throws AleError("config") when the file cannot be trusted or loaded */
  static async start(config: RewardConfig, folder: string): Promise<RewardFunction | undefined> {
    const { function: path, sha256, functionSeconds } = config;
    if (path === undefined) return undefined;
    const copy = placeTrusted(rewardCode({ function: path, sha256 }), folder, COPY);
    const started = new RewardFunction(path, copy, functionSeconds);
    try {
      await deadline("loading the reward function", START_MS, started.#ready.promise, "config");
    } catch (error) {
      await started[Symbol.asyncDispose]();
      throw error;
    }
    return started;
  }

  /** One call after the other: the time limit is about a call, not about those before it. */
  call(episode: RewardEpisode): Promise<number> {
    const call = this.#turn.then(() => this.#callNow(episode));
    this.#turn = call.catch(() => {});
    return call;
  }

  async #callNow(episode: RewardEpisode): Promise<number> {
    const id = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#waiting.set(id, { resolve, reject });
    const message: ToFunction = { id, episode };
    try {
      if (this.#process.exitCode !== null || this.#process.signalCode !== null)
        throw this.#failure("its process has ended");
      this.#process.send(message);
      return await deadline(
        `the reward function for ${episode.episode}`,
        this.#limitMs,
        promise,
        "config",
        "reward function",
      );
    } finally {
      this.#waiting.delete(id);
      promise.catch(() => {});
    }
  }

  #receive(message: FromFunction): void {
    if (message.type === "ready") {
      if (message.error === undefined) this.#ready.resolve();
      else this.#ready.reject(this.#failure(message.error));
    } else if (message.type === "value") this.#waiting.get(message.id)?.resolve(message.value);
    else this.#waiting.get(message.id)?.reject(this.#failure(message.error));
  }

  #failure(why: string): AleError {
    return new AleError("config", `reward.function: ${this.#path}: ${why}`, {
      hint: "correct it and start a new run: a run keeps its reward",
    });
  }

  #end(error: AleError): void {
    this.#ready.reject(error);
    this.#ready.promise.catch(() => {});
    for (const { reject } of this.#waiting.values()) reject(error);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}
