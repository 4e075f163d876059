/**
 * One episode: a task, a sandbox and a policy → a trajectory. Whatever fails is recorded on the trajectory; the only
 * things that leave this file as exceptions are an aborted run and a lost engine, whose episodes are started again.
 */

import type { TranscriptFormat } from "../agent/format.ts";
import { type AgentLimits, runAgent } from "../agent/loop.ts";
import type { Alert } from "../core/alerts.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import type { EpisodePhase, EventHub } from "../core/events.ts";
import type { Policy, SamplingOptions, Sandbox, SandboxProvider, SandboxSnapshot } from "../core/ports.ts";
import { clockTime } from "../core/timeline.ts";
import type {
  AuditEntry,
  ForkPoint,
  GradingMode,
  PhaseSpan,
  PhaseTimes,
  StopReason,
  Task,
  TestCounts,
  TokenRecord,
  Trajectory,
  Turn,
} from "../core/types.ts";
import { beginWait } from "../core/waits.ts";
import { EngineLost } from "../device/engine-client.ts";
import { grade } from "../sandbox/grading.ts";
import { GuardMonitor } from "../sandbox/guards/guard-monitor.ts";
import { GuardWatch } from "../sandbox/guards/guard-watch.ts";
import { guardsOf } from "../sandbox/profiles.ts";
import { EpisodeAudit } from "./audit.ts";
import { type EnvironmentLatency, turnLatency } from "./latency.ts";
import type { Limiter } from "./limiter.ts";

/** Everything an episode needs that is the same for all episodes of a run. */
export interface EpisodeContext {
  readonly policy: Policy;
  readonly provider: SandboxProvider;
  readonly format: TranscriptFormat;
  readonly limits: AgentLimits;
  readonly sampling: Omit<SamplingOptions, "maxTokens" | "stopIds">;
  readonly grading: GradingMode;
  /** Whether graders look for how many tests passed. */
  readonly withTests?: boolean;
  /** Wall-clock limit of an episode in milliseconds. */
  readonly episodeMs: number;
  /** Bounds sandboxes that are being started or graded at once. */
  readonly sandboxes: Limiter;
  /** How late environments answer; at once when omitted. */
  readonly latency?: EnvironmentLatency;
  readonly hub: EventHub;
  readonly signal: AbortSignal;
}

/** Where an episode begins that does not begin at the task's start. */
export interface EpisodeStart {
  readonly snapshot: SandboxSnapshot;
  /** Tokens up to where the policy begins to write. */
  readonly context: Int32Array;
  readonly fork: ForkPoint;
}

export interface EpisodePlan {
  readonly episodeId: string;
  readonly groupId: string;
  readonly member: number;
  readonly task: Task;
  /** Key of the sampling noise: the group's, a slash, and the member. */
  readonly noiseKey: string;
  readonly start?: EpisodeStart;
}

const NO_TOKENS: TokenRecord = {
  ids: new Int32Array(0),
  mask: new Uint8Array(0),
  logprobs: new Float32Array(0),
  logprobsT1: new Float32Array(0),
  versions: new Int32Array(0),
  kvOldest: new Int32Array(0),
  turnIds: new Int32Array(0),
};

interface Outcome {
  tokens: TokenRecord;
  turns: readonly Turn[];
  stopReason: StopReason;
  reward: number;
  scores?: Readonly<Record<string, number>>;
  tests?: TestCounts;
  isolation: string;
  error?: string;
  audit?: readonly AuditEntry[];
  alerts?: readonly Alert[];
}

/** Runs one episode to its end. Rejects only with `EngineLost` or when `context.signal` is aborted. */
export async function runEpisode(plan: EpisodePlan, context: EpisodeContext): Promise<Trajectory> {
  const startedAt = Date.now();
  const clock = new PhaseClock(plan, context);
  const outcome: Outcome = {
    tokens: NO_TOKENS,
    turns: [],
    stopReason: "sandbox_error",
    reward: 0,
    isolation: context.provider.isolation,
  };
  try {
    await attempt(plan, context, clock, outcome);
  } catch (error) {
    if (context.signal.aborted || error instanceof EngineLost) clock.enter("finished");
    context.signal.throwIfAborted();
    if (error instanceof EngineLost) throw error;
    outcome.error = errorMessage(error);
  }
  clock.enter("finished");
  const { task } = plan;
  return {
    episodeId: plan.episodeId,
    groupId: plan.groupId,
    taskId: task.id,
    family: task.family,
    split: task.split,
    seed: task.seed,
    member: plan.member,
    ...(plan.start === undefined ? {} : { fork: plan.start.fork }),
    ...outcome,
    grading: context.grading,
    startedAt,
    phases: clock.times(),
    spans: clock.spans,
  };
}

async function attempt(plan: EpisodePlan, context: EpisodeContext, clock: PhaseClock, outcome: Outcome): Promise<void> {
  const { task, start } = plan;
  const settings = guardsOf(task.environment.profile);
  const guard = new GuardWatch({ settings, environment: task.environment });
  clock.enter("reset");
  const sandbox = await context.sandboxes.run(() =>
    start === undefined ? prepare(task, context) : context.provider.fork(start.snapshot, context.signal),
  );
  const audit = new EpisodeAudit();
  audit.watch(sandbox, "agent");
  let agentSince = Date.now();
  using monitor = new GuardMonitor(sandbox, guard, settings);
  try {
    outcome.isolation = sandbox.isolation;
    outcome.stopReason = "engine_error";
    await using session = await context.policy.open(plan.noiseKey);
    agentSince = Date.now();
    const result = await runAgent({
      session,
      sandbox,
      task,
      format: context.format,
      limits: context.limits,
      sampling: context.sampling,
      deadlineMs: context.episodeMs,
      signal: context.signal,
      ...(context.latency && { latency: turnLatency(context.latency, plan) }),
      ...(start === undefined ? {} : { start: { context: start.context, turn: start.fork.anchor - 1 } }),
      guard,
      onPhase: (phase) => clock.enter(phase),
    });
    Object.assign(outcome, result);
    await session.close();
    await monitor.lookAtFiles(task);
    if (guard.stopped !== undefined) outcome.stopReason = "guard";
    else if (result.stopReason === "done") await judge(task, sandbox, context, clock, outcome, audit);
  } finally {
    outcome.isolation = sandbox.isolation; // a snapshot that was taken meanwhile may have changed it
    if (guard.alerts.length > 0) outcome.alerts = [...guard.alerts];
    await sandbox.destroy();
    outcome.audit = audit.entries(outcome.turns, agentSince);
  }
}

async function prepare(task: Task, context: EpisodeContext): Promise<Sandbox> {
  const sandbox = await context.provider.create(task.environment, context.signal);
  try {
    checkNetwork(task, sandbox);
    await sandbox.upload(task.environment.workdir, task.files);
    return sandbox;
  } catch (error) {
    await sandbox.destroy();
    throw error;
  }
}

/** A provider that has no networks must not run, without one, what needs one. */
function checkNetwork({ id, environment }: Task, sandbox: Sandbox): void {
  const asked = environment.network?.mode ?? "none";
  if (asked === (sandbox.network?.spec.mode ?? "none")) return;
  throw new AleError("sandbox", `task ${id} asks for a network (${asked}), which its sandbox does not have`, {
    hint: "use the native sandbox backend",
  });
}

/** Only episodes that the policy declared done can earn a reward. */
async function judge(
  task: Task,
  sandbox: Sandbox,
  context: EpisodeContext,
  clock: PhaseClock,
  outcome: Outcome,
  audit: EpisodeAudit,
): Promise<void> {
  clock.enter("grade");
  const result = await context.sandboxes.run(() =>
    grade(context.provider, sandbox, task, {
      mode: context.grading,
      signal: context.signal,
      onSandbox: (fresh) => audit.watch(fresh, "verifier"),
      onTested: (where, record) => audit.tested(where, record),
      withTests: context.withTests ?? false,
    }),
  );
  if (result.error === undefined) {
    outcome.reward = result.reward;
    if (result.scores !== undefined) outcome.scores = result.scores;
    if (result.tests !== undefined) outcome.tests = result.tests;
  } else {
    outcome.stopReason = "grader_error";
    outcome.error = result.error;
  }
}

/** What an episode waits for in each phase. */
const WAITS: Record<keyof PhaseTimes, string> = {
  reset: "a sandbox with its files",
  generate: "an answer of the policy",
  tool: "a command in its sandbox",
  grade: "its grade",
};

/** Notes when each phase began and ended, lists what the episode waits for, and tells the hub of each change. */
class PhaseClock {
  readonly spans: PhaseSpan[] = [];
  readonly #plan: EpisodePlan;
  readonly #context: EpisodeContext;
  #phase: EpisodePhase = "queued";
  #since = clockTime();
  /** When the agent's time is over. */
  #agentEnds: number | undefined;
  endWait: () => void = () => {};

  constructor(plan: EpisodePlan, context: EpisodeContext) {
    this.#plan = plan;
    this.#context = context;
  }

  enter(phase: EpisodePhase): void {
    const now = clockTime();
    this.endWait();
    if (this.#phase !== "queued" && this.#phase !== "finished") {
      this.spans.push({ phase: this.#phase, begin: this.#since, end: now });
    }
    this.#phase = phase;
    this.#since = now;
    const { episodeId, task } = this.#plan;
    if (phase !== "queued" && phase !== "finished") {
      const { episodeMs } = this.#context;
      if (phase === "generate") this.#agentEnds ??= now + Math.min(episodeMs, task.timeouts.agent * 1000);
      const left = phase === "generate" || phase === "tool" ? (this.#agentEnds ?? now) - now : undefined;
      this.endWait = beginWait(episodeId, WAITS[phase], left);
    }
    this.#context.hub.emit({ type: "episode.phase", episodeId, phase });
  }

  times(): PhaseTimes {
    const times = { reset: 0, generate: 0, tool: 0, grade: 0 };
    for (const { phase, begin, end } of this.spans) times[phase] += end - begin;
    return times;
  }
}
