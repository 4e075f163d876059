/** An agent with a job other than a task: it gets a prompt and folders, and leaves files. */

import type { TranscriptFormat } from "../agent/format.ts";
import { type AgentLimits, runAgent } from "../agent/loop.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import type { Policy, SamplingOptions, Sandbox, SandboxProvider } from "../core/ports.ts";
import type { EnvironmentSpec, SandboxFile, StopReason, Task } from "../core/types.ts";

/** Who answers for an agent. */
export interface Player {
  readonly name: string;
  readonly policy: Policy;
  readonly format: TranscriptFormat;
}

export interface AgentParts {
  readonly provider: SandboxProvider;
  readonly limits: AgentLimits;
  readonly sampling: Omit<SamplingOptions, "maxTokens" | "stopIds">;
  /** Wall-clock limit of an agent in milliseconds. */
  readonly episodeMs: number;
  readonly signal: AbortSignal;
}

export interface AgentJob {
  /** Names the agent, and the noise of its answers. */
  readonly key: string;
  readonly prompt: string;
  readonly environment: EnvironmentSpec;
  /** Files by the folder they are placed in. */
  readonly folders: Readonly<Record<string, readonly SandboxFile[]>>;
}

export interface AgentReport<T> {
  readonly left: T;
  readonly stopReason: StopReason;
  readonly turns: number;
}

/**
 * Runs an agent in a sandbox of its own, ends its processes, and has `read` look at what it left. An agent that ran out of
 * turns or time may have left something all the same.
 *
 * @throws AleError when its policy or its sandbox failed, which says nothing about what it was asked for
 */
export async function runJob<T>(
  { policy, format }: Player,
  job: AgentJob,
  parts: AgentParts,
  read: (sandbox: Sandbox) => Promise<T>,
): Promise<AgentReport<T>> {
  const { provider, limits, sampling, episodeMs, signal } = parts;
  await using sandbox = await provider.create(job.environment, signal);
  for (const [folder, files] of Object.entries(job.folders)) await sandbox.upload(folder, files);
  await using session = await policy.open(job.key);
  const task = asTask(job, episodeMs);
  const result = await runAgent({ session, sandbox, task, format, limits, sampling, deadlineMs: episodeMs, signal });
  if (result.stopReason === "sandbox_error") {
    throw new AleError("sandbox", `the sandbox of ${job.key} failed: ${result.error ?? "it is gone"}`);
  }
  try {
    await sandbox.killAll();
  } catch (error) {
    // a sandbox that was too full or too crowded to go on holds nothing of use
    signal.throwIfAborted();
    throw new AleError(
      "task",
      `nothing could be read after the agent ended by ${result.stopReason}: ${errorMessage(error)}`,
    );
  }
  return { left: await read(sandbox), stopReason: result.stopReason, turns: result.turns.length };
}

function asTask({ key, prompt, environment }: AgentJob, episodeMs: number): Task {
  const seconds = Math.ceil(episodeMs / 1000);
  return {
    ...{ id: key, suite: "data", family: "agent", split: "train", seed: 0 },
    ...{ instruction: prompt, environment, files: [], tests: [], solution: [], demonstrations: [] },
    timeouts: { command: 60, agent: seconds, verifier: seconds },
  };
}

/** Text of a file that an agent left; `undefined` where there is none, or nothing that can be read. */
export async function readText(sandbox: Sandbox, path: string, maxBytes: number): Promise<string | undefined> {
  try {
    const content = await sandbox.readFile(path, maxBytes);
    return content === null ? undefined : new TextDecoder("utf-8", { fatal: true }).decode(content);
  } catch (error) {
    if (error instanceof AleError && error.code === "interrupted") throw error;
    return undefined;
  }
}
