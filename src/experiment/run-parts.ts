/** Opens what a run consists of, runs it, and always leaves the results of what was reached. */

import { AleError, errorMessage } from "../core/errors.ts";
import type { SandboxProvider } from "../core/ports.ts";
import type { EnginePool } from "../device/engine-pool.ts";
import { Limiter } from "../rollout/limiter.ts";
import type { Suite } from "../tasks/suite.ts";
import type { RunOptions, RunResult } from "./api.ts";
import { openBackend } from "./backends.ts";
import { fitMemory } from "./memory.ts";
import type { PolicySource } from "./policy-source.ts";
import { startEngines } from "./resources.ts";
import { writeResults } from "./results.ts";
import { RunSession } from "./run-session.ts";
import { requirePort, startService } from "./service.ts";
import { suitePaths } from "./suites.ts";

/** Everything a run works with. */
export interface RunParts {
  readonly options: RunOptions;
  readonly suite: Suite;
  readonly source: PolicySource;
  readonly provider: SandboxProvider;
  readonly session: RunSession;
  readonly engine: EnginePool;
  /** Bounds the episodes in flight, of training and evaluation together. */
  readonly limiter: Limiter;
}

export interface RunPlan {
  /** `grpo`, `reinforce` or `sft`. */
  readonly algorithm: string;
  readonly steps: number;
  readonly suite: Suite;
  readonly source: PolicySource;
}

/** Executes `work` with sandboxes, store, service and engine around it; they are closed in reverse, whatever happens. */
export async function executeRun(
  options: RunOptions,
  plan: RunPlan,
  work: (parts: RunParts) => Promise<void>,
): Promise<RunResult> {
  const { hub, outDir } = options;
  const { suite, source } = plan;
  await requirePort(options);
  const { experiment, settings } = fitMemory(options.experiment, source);
  // A run can be stopped by an interrupt and through the API.
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  await using provider = await openBackend(
    ...([experiment.sandbox, suitePaths(experiment)[0] ?? "", suitePaths(experiment).slice(1)] as const),
  );
  provider.onRestart?.((reason, restarts) => hub.emit({ type: "launcher.restarted", reason, restarts }));
  await using session = await RunSession.open(
    { ...options, signal },
    {
      algorithm: plan.algorithm,
      steps: plan.steps,
      isolation: provider.isolation,
      extras: source.textFiles,
    },
  );
  if (settings.length > 0) {
    hub.emit({ type: "log", level: "warn", message: `to fit into memory the run takes ${settings.join(", ")}` });
  }
  try {
    await using _service = await startService(options, session.store, session.runId, () =>
      stop.abort(new AleError("interrupted", "the run was stopped through the API")),
    );
    const engine = await startEngines(experiment, { ...source, weights: weightsOf(session, source) }, outDir, hub);
    try {
      const limiter = new Limiter(experiment.rollout.concurrency);
      await work({ options: { ...options, experiment, signal }, suite, source, provider, session, engine, limiter });
    } finally {
      await engine.stop();
    }
    return await conclude(options, session, "finished");
  } catch (error) {
    if (signal.aborted || options.stop.aborted) return await concludeInterrupted(options, session);
    session.stopWaitingForRoom();
    // The results may fail for the same reason, such as a full disk; the first failure is the one to report.
    await conclude(options, session, "failed", errorMessage(error))
      .catch(() => session.end("failed", errorMessage(error)))
      .catch(() => {}); // not even that was written; whoever looks sees that nobody works on it
    throw error;
  }
}

/** The checkpoint of a resumed run, or the policy the experiment names. */
function weightsOf(session: RunSession, source: PolicySource) {
  const { resumedFrom } = session;
  if (resumedFrom === undefined) return source.weights;
  return { kind: "checkpoint", folder: resumedFrom.folder, version: resumedFrom.version } as const;
}

/** The run is saved up to its last commit, even where its results cannot be written. */
async function concludeInterrupted(options: RunOptions, session: RunSession): Promise<RunResult> {
  try {
    return await conclude(options, session, "interrupted");
  } catch (cause) {
    await session.end("interrupted").catch(() => {}); // refused for the same reason; whoever looks sees that nobody works on it
    throw new AleError("interrupted", `run ${session.runId} is saved, but not its results: ${errorMessage(cause)}`, {
      hint: `ale resume ${session.runId}`,
      cause,
    });
  }
}

async function conclude(
  options: RunOptions,
  session: RunSession,
  status: RunResult["status"],
  reason?: string,
): Promise<RunResult> {
  session.removeState(); // first, as it is room for the results
  const summaryPath = await session.whenRoom(() => writeResults(options, session, status));
  await session.end(status, reason);
  return { runId: session.runId, outDir: options.outDir, status, summaryPath };
}
