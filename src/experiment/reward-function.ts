/**
 * A reward function of the user's: code, so it runs only when the experiment names the hash of what is in the file, and then
 * in a process of its own that knows nothing of the run's environment. That process runs as the same user, without a sandbox:
 * the hash says that somebody looked.
 */

import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { isBuiltin } from "node:module";
import { join } from "node:path";
import type { RewardConfig } from "../config/reward.ts";
import { AleError, deadline, errorMessage } from "../core/errors.ts";
import { selfCommand } from "../device/self.ts";
import type { FromFunction, ToFunction } from "../reward/function-role.ts";
import type { RewardEpisode } from "../reward/shaping.ts";

const MAX_SOURCE_BYTES = 1 << 20;
const START_MS = 30_000;
/** What was run, beside the results. */
const COPY = "reward.ts";

/** Source and hash of a reward function. @throws AleError("config") when it cannot be read */
export function readRewardFunction(path: string): { readonly source: string; readonly sha256: string } {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new AleError("config", `reward.function: ${path} cannot be read: ${errorMessage(error)}`, {
      hint: "give the path of a TypeScript file",
      cause: error,
    });
  }
  if (bytes.length > MAX_SOURCE_BYTES) throw new AleError("config", `reward.function: ${path} is larger than 1 MiB`);
  return { source: new TextDecoder().decode(bytes), sha256: createHash("sha256").update(bytes).digest("hex") };
}

/**
 * Checks that the function may run, without running it: it is what the hash says, and all of it is in the one file.
 * @throws AleError("config") with what to do
 */
export function trustedSource({ function: path, sha256: known }: RewardConfig): string | undefined {
  if (path === undefined) return undefined;
  const { source, sha256 } = readRewardFunction(path);
  if (known === undefined) {
    throw new AleError("config", `reward.function: ${path} is code that this experiment would run`, {
      hint: `read it; then set reward.sha256 = "${sha256}", or add --trust`,
    });
  }
  if (known !== sha256) {
    throw new AleError("config", `reward.function: ${path} is not the file that reward.sha256 names`, {
      hint: `its hash is ${sha256}; look at what has changed`,
    });
  }
  const foreign = importsOf(source, path).find((name) => !isBuiltin(name));
  if (foreign === undefined) return source;
  throw new AleError(
    "config",
    `reward.function: ${path} imports ${JSON.stringify(foreign)}, which the hash does not cover`,
    {
      hint: "put everything into the one file; node: modules may be imported",
    },
  );
}

/** What a run that is resumed ran before, wherever the file itself is by now. */
function keptSource({ function: path, sha256: known }: RewardConfig, folder: string): string | undefined {
  const copy = join(folder, COPY);
  if (path === undefined || !existsSync(copy)) return undefined;
  const { source, sha256 } = readRewardFunction(copy);
  return sha256 === known ? source : undefined;
}

function importsOf(source: string, path: string): string[] {
  try {
    return new Bun.Transpiler({ loader: "ts" }).scanImports(source).map((found) => found.path);
  } catch (error) {
    throw new AleError("config", `reward.function: ${path}: ${errorMessage(error)}`, { hint: "correct the file" });
  }
}

/** A running reward function. */
export class RewardFunction implements AsyncDisposable {
  readonly #path: string;
  readonly #limitMs: number;
  readonly #process: Bun.Subprocess;
  readonly #waiting = new Map<number, { resolve(value: number): void; reject(error: Error): void }>();
  readonly #ready = Promise.withResolvers<void>();
  #next = 0;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(config: RewardConfig, source: string, folder: string) {
    this.#path = config.function ?? "";
    this.#limitMs = config.functionSeconds * 1000;
    // What was hashed is what runs, whatever happens to the file meanwhile.
    const copy = join(folder, COPY);
    writeFileSync(copy, source);
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
    const source = keptSource(config, folder) ?? trustedSource(config);
    if (source === undefined) return undefined;
    const started = new RewardFunction(config, source, folder);
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
