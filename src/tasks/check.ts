/**
 * Proves task instances in real sandboxes: the oracle must score 1 and doing nothing must score 0. A task that fails either
 * gives no learning signal, or a wrong one.
 */

import { errorMessage } from "../core/errors.ts";
import type { Sandbox, SandboxProvider } from "../core/ports.ts";
import { SPLITS, type Split, type Task } from "../core/types.ts";
import type { Suite } from "./suite.ts";

/** Grades what is in a sandbox; implemented in `sandbox/grading.ts`. */
export type GradeFunction = (
  provider: SandboxProvider,
  sandbox: Sandbox,
  task: Task,
  options: { readonly signal: AbortSignal },
) => Promise<{ readonly reward: number; readonly error?: string }>;

export interface CheckOptions {
  /** Instances in all, spread over families and splits. */
  readonly samples: number;
  readonly splits?: readonly Split[];
  /** Instances in flight at once. */
  readonly concurrency: number;
  readonly seed?: number;
  readonly signal: AbortSignal;
}

/** Rewards of one instance; right is 1 for the oracle and 0 for doing nothing. */
export interface CheckRow {
  /** Id of the task. */
  readonly task: string;
  readonly seed: number;
  readonly oracle: number;
  readonly noop: number;
  readonly ms: number;
  /** Why the oracle or the grader failed, when it is known. */
  readonly error?: string;
  /** Why the grader failed on the instance with nothing done. */
  readonly noopError?: string;
}

/** Whether an instance is as it should be. */
export function passesCheck(row: CheckRow): boolean {
  return row.oracle === 1 && row.noop === 0 && row.error === undefined;
}

const SOLUTION_FOLDER = "/solution";
const MAX_OUTPUT_BYTES = 4096;

/**
 * Checks instances of a suite and hands each row to `onResult` as it is finished. Returns the rows in a fixed order.
 * A sandbox that cannot be made ends the check; what a task does wrong is in its row.
 *
 * @throws `AleError("sandbox")` when sandboxes cannot be made
 */
export async function checkSuite(
  suite: Suite,
  provider: SandboxProvider,
  grade: GradeFunction,
  options: CheckOptions,
  onResult: (row: CheckRow) => void = () => {},
): Promise<CheckRow[]> {
  const tasks = selectInstances(suite, options);
  const rows: CheckRow[] = new Array(tasks.length);
  let next = 0;
  const work = async () => {
    while (next < tasks.length) {
      options.signal.throwIfAborted();
      const index = next++;
      const row = await checkTask(tasks[index] as Task, provider, grade, options.signal);
      rows[index] = row;
      onResult(row);
    }
  };
  const workers = Array.from({ length: Math.min(options.concurrency, tasks.length) }, work);
  const ended = await Promise.allSettled(workers);
  const failed = ended.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return rows;
}

/** Families in rotation, splits in rotation of those, no instance twice. */
function selectInstances(suite: Suite, options: CheckOptions): Task[] {
  const splits = options.splits ?? SPLITS;
  const seed = options.seed ?? 0;
  const tasks = Array.from({ length: options.samples }, (_, i) => {
    const member = i % suite.families.length;
    const rotation = Math.floor(i / suite.families.length);
    const split = splits[(member + rotation) % splits.length] as Split;
    return suite.render(suite.families[member] as string, split, seed + rotation);
  });
  const seen = new Set<string>();
  return tasks.filter(({ id }) => !seen.has(id) && seen.add(id));
}

/** Checks one instance: nothing done, then the oracle, each in a fresh sandbox. */
export async function checkTask(
  task: Task,
  provider: SandboxProvider,
  grade: GradeFunction,
  signal: AbortSignal,
): Promise<CheckRow> {
  const started = performance.now();
  const noop = await attempt(task, provider, grade, signal, async () => undefined);
  const oracle = await attempt(task, provider, grade, signal, (sandbox) => solve(task, sandbox, signal));
  const error = oracle.error ?? (noop.reward === 0 ? undefined : noop.error);
  return {
    task: task.id,
    seed: task.seed,
    oracle: oracle.reward,
    noop: noop.reward,
    ms: performance.now() - started,
    ...(error === undefined ? {} : { error }),
    ...(noop.error === undefined ? {} : { noopError: noop.error }),
  };
}

/** A fresh sandbox with the task's files, `act` in it, and the grade. `act` returns what went wrong. */
async function attempt(
  task: Task,
  provider: SandboxProvider,
  grade: GradeFunction,
  signal: AbortSignal,
  act: (sandbox: Sandbox) => Promise<string | undefined>,
): Promise<{ readonly reward: number; readonly error?: string }> {
  await using sandbox = await provider.create(task.environment, signal);
  try {
    await sandbox.upload(task.environment.workdir, task.files);
    const problem = await act(sandbox);
    const result = await grade(provider, sandbox, task, { signal });
    return problem === undefined ? result : { reward: result.reward, error: problem };
  } catch (error) {
    signal.throwIfAborted();
    return { reward: 0, error: errorMessage(error) };
  }
}

async function solve(task: Task, sandbox: Sandbox, signal: AbortSignal): Promise<string | undefined> {
  if (!task.solution.some((file) => file.path === "solve.sh")) return "the task has no solution/solve.sh";
  await sandbox.upload(SOLUTION_FOLDER, task.solution);
  const result = await sandbox.run(`bash ${SOLUTION_FOLDER}/solve.sh`, {
    timeoutMs: task.timeouts.agent * 1000,
    maxOutputBytes: MAX_OUTPUT_BYTES,
    signal,
  });
  if (result.status === "exited" && result.exitCode === 0) return undefined;
  const output = new TextDecoder().decode(result.output).trim();
  const how = result.status === "exited" ? `exit code ${result.exitCode}` : result.status;
  return `solution/solve.sh: ${how}${output === "" ? "" : `: ${output}`}`;
}
