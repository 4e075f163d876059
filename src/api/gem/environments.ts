/**
 * Tasks as GEM environments: make, reset, step, close. An action is one command in a shell that persists, an observation is
 * the instruction and then each command's output, and the reward comes from the task's verifier when the episode is over.
 */

import { randomInt } from "node:crypto";
import { AleError } from "../../core/errors.ts";
import type { Task } from "../../core/types.ts";
import { grade } from "../../sandbox/grading.ts";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { embeddedSuites } from "../../tasks/source.ts";
import { loadSuite } from "../../tasks/suite.ts";
import { parseEnvironmentId, type RenderTask } from "./environment-id.ts";

const SHELL = "default";
const MAX_OBSERVATION_BYTES = 16 << 10;
const MAX_SEED = 2 ** 31;
/** Ends the episode; in a shell it would be a syntax error. `exit` does the same, by ending the shell. */
const DONE = "done";

export interface Observed {
  readonly observation: string;
  readonly info: Readonly<Record<string, unknown>>;
}

export interface Stepped extends Observed {
  readonly reward: number;
  /** The agent said that it is done. */
  readonly terminated: boolean;
  /** A limit ended the episode. */
  readonly truncated: boolean;
}

interface Episode {
  readonly envId: string;
  readonly render: RenderTask;
  task: Task;
  /** Nothing has been done since the task's files were placed. */
  fresh: boolean;
  turns: number;
  startedAt: number;
  over: boolean;
  /** One thing at a time. */
  busy: boolean;
}

export interface GemOptions {
  readonly service: SandboxService;
  /** Actions until an episode is truncated. */
  readonly maxTurns: number;
}

export class GemEnvironments {
  readonly #options: GemOptions;
  readonly #episodes = new Map<string, Episode>();

  constructor(options: GemOptions) {
    this.#options = options;
  }

  /** @throws AleError("task") when there is no such task. Returns the name of its sandbox. */
  async make(envId: string): Promise<string> {
    this.#forgetExpired();
    const render = parseEnvironmentId(envId);
    const task = render(randomInt(MAX_SEED));
    const sandbox = await this.#prepare(task, envId);
    const episode = { envId, render, task, fresh: true, turns: 0, startedAt: Date.now(), over: false, busy: false };
    this.#episodes.set(sandbox.id, episode);
    return sandbox.id;
  }

  /** Episodes whose sandboxes ended because nobody used them. */
  #forgetExpired(): void {
    for (const [id, { busy }] of this.#episodes) {
      const state = this.#options.service.find(id)?.state;
      if (!busy && (state === undefined || state === "deleted")) this.#episodes.delete(id);
    }
  }

  async #prepare(task: Task, envId: string, id?: string): Promise<ManagedSandbox> {
    const { service } = this.#options;
    service.networkCap?.checkTask(task);
    const sandbox = await service.create({
      ...{ id, environment: task.environment, labels: { env_id: envId }, isGraded: true },
    });
    try {
      await sandbox.use((native) => native.upload(task.environment.workdir, task.files));
      await sandbox.openShell(SHELL);
      return sandbox;
    } catch (error) {
      await service.delete(sandbox.id);
      throw error;
    }
  }

  /** Begins an episode: the instance of `seed`, or any; a task that is no family has one. */
  reset(sandboxId: string, seed?: number): Promise<Observed> {
    return this.#alone(sandboxId, async (episode) => {
      if (seed !== undefined || !episode.fresh || this.#options.service.find(sandboxId)?.state !== "running") {
        episode.task = episode.render(seed ?? randomInt(MAX_SEED));
        await this.#options.service.delete(sandboxId);
        await this.#prepare(episode.task, episode.envId, sandboxId);
      }
      Object.assign(episode, { fresh: true, turns: 0, startedAt: Date.now(), over: false });
      const { id, suite, family, split, seed: rendered, timeouts } = episode.task;
      return {
        observation: episode.task.instruction,
        info: { task: id, suite, family, split, seed: rendered, timeouts, max_turns: this.#options.maxTurns },
      };
    });
  }

  /** Runs one command, or ends the episode. @throws AleError("usage") when it is over. */
  step(sandboxId: string, action: string): Promise<Stepped> {
    return this.#alone(sandboxId, async (episode) => {
      if (episode.over)
        throw new AleError("usage", `the episode in ${sandboxId} is over`, { hint: "reset begins another" });
      const sandbox = this.#options.service.get(sandboxId);
      episode.fresh = false;
      episode.turns++;
      if (action.trim() === DONE) return this.#finish(sandbox, episode, { observation: "", info: {} }, "done");
      const left = episode.startedAt + episode.task.timeouts.agent * 1000 - Date.now();
      const running = sandbox.runInShell(SHELL, action, {
        timeoutMs: Math.max(1, Math.min(episode.task.timeouts.command * 1000, left)),
        maxOutputBytes: MAX_OBSERVATION_BYTES,
      });
      const result = await running.catch((error: unknown) => {
        if (sandbox.guard.stopped === undefined) throw error;
        return undefined;
      });
      if (result === undefined) return this.#stopped(sandbox, episode, { observation: "", info: {} });
      const { exitCode, status, ms, truncated } = result;
      const observed: Observed = {
        observation: new TextDecoder().decode(result.output),
        info: { exit_code: exitCode, status, ms, output_truncated: truncated, turn: episode.turns },
      };
      if (status === "shell_died") return this.#finish(sandbox, episode, observed, "done");
      const late = Date.now() - episode.startedAt >= episode.task.timeouts.agent * 1000;
      if (late || episode.turns >= this.#options.maxTurns)
        return this.#finish(sandbox, episode, observed, late ? "timeout" : "turns");
      return { ...observed, reward: 0, terminated: false, truncated: false };
    });
  }

  async #finish(
    sandbox: ManagedSandbox,
    episode: Episode,
    { observation, info }: Observed,
    stopReason: "done" | "turns" | "timeout",
  ): Promise<Stepped> {
    episode.over = true;
    await sandbox.guard.lookAtFiles(episode.task);
    if (sandbox.guard.stopped !== undefined) return this.#stopped(sandbox, episode, { observation, info });
    const { reward, mode, ms, error } = await sandbox.use((native) =>
      grade(this.#options.service.provider, native, episode.task),
    );
    const grading = { mode, ms, error: error ?? null };
    const terminated = stopReason === "done";
    const all = {
      ...info,
      turn: episode.turns,
      stop_reason: error === undefined ? stopReason : "grader_error",
      grading,
      alerts: alertsOf(sandbox),
    };
    return { observation, reward, terminated, truncated: !terminated, info: all };
  }

  /** A guard ended the episode, ungraded. */
  #stopped(sandbox: ManagedSandbox, episode: Episode, { observation, info }: Observed): Stepped {
    episode.over = true;
    const all = { ...info, turn: episode.turns, stop_reason: "guard", alerts: alertsOf(sandbox) };
    return { observation, reward: 0, terminated: true, truncated: false, info: all };
  }

  async close(sandboxId: string): Promise<void> {
    this.#find(sandboxId);
    this.#episodes.delete(sandboxId);
    await this.#options.service.delete(sandboxId).catch((error: unknown) => {
      // Its time was over: it is closed already.
      if (this.#options.service.find(sandboxId) !== undefined) throw error;
    });
  }

  /** Every family of the suites that come with Ale; suites elsewhere are named by their folder. */
  list(): string[] {
    return embeddedSuites().flatMap((path) => {
      const suite = loadSuite(path);
      return suite.families.map((family) => `${suite.name}/${family}`);
    });
  }

  #find(sandboxId: string): Episode {
    const episode = this.#episodes.get(sandboxId);
    if (episode === undefined)
      throw new AleError("usage", `there is no environment in ${JSON.stringify(sandboxId)}`, { hint: "make one" });
    return episode;
  }

  async #alone<T>(sandboxId: string, work: (episode: Episode) => Promise<T>): Promise<T> {
    const episode = this.#find(sandboxId);
    if (episode.busy)
      throw new AleError("usage", `the environment in ${sandboxId} is still at its last step`, { hint: "wait for it" });
    episode.busy = true;
    try {
      return await work(episode);
    } finally {
      episode.busy = false;
    }
  }
}

function alertsOf({ guard }: ManagedSandbox) {
  return guard.alerts.map(({ kind, action, evidence }) => ({ kind, action, evidence }));
}
