/** The third filter: tasks are run. The oracle scores 1 and doing nothing 0, again and again, in fresh sandboxes. */

import type { SandboxProvider } from "../core/ports.ts";
import type { SandboxFile, Task } from "../core/types.ts";
import { type CheckRow, checkTask, type GradeFunction } from "../tasks/check.ts";

export interface ExecutionParts {
  readonly provider: SandboxProvider;
  readonly grade: GradeFunction;
  readonly signal: AbortSignal;
}

/** Why a task does not hold after `repeats` runs; `undefined` when it does. */
export async function executionFault(task: Task, repeats: number, parts: ExecutionParts): Promise<string | undefined> {
  const rows: CheckRow[] = [];
  for (let i = 0; i < repeats; i++) {
    const row = await check(task, parts);
    rows.push(row);
    const fault = faultOf(row);
    if (fault !== undefined && i === 0) return fault;
    if (fault !== undefined) return `flaky: run ${i + 1} of ${repeats} differs from the first: ${fault}`;
  }
  return undefined;
}

function check(task: Task, { provider, grade, signal }: ExecutionParts): Promise<CheckRow> {
  return checkTask(task, provider, grade, signal);
}

function faultOf({ oracle, noop, error, noopError }: CheckRow): string | undefined {
  const why = (text: string | undefined) => (text === undefined ? "" : `: ${text}`);
  if (oracle !== 1) return `the solution scores ${oracle}${why(error)}`;
  if (noopError !== undefined) return `doing nothing cannot be judged${why(noopError)}`;
  if (noop !== 0) return `doing nothing scores ${noop}`;
  return error === undefined ? undefined : error;
}

/** A solution of the reviewer's, with the reward it must lead to. */
export interface Trial {
  readonly name: string;
  readonly script: SandboxFile;
  readonly expected: 0 | 1;
}

/**
 * Runs solutions that a reviewer wrote: right ones that the tests must accept, wrong ones that they must not. Returns the
 * first disagreement. A script that fails by itself says nothing against the task.
 */
export async function trialFault(
  task: Task,
  trials: readonly Trial[],
  parts: ExecutionParts,
): Promise<string | undefined> {
  for (const { name, script, expected } of trials) {
    const solution = [{ path: "solve.sh", content: script.content, mode: 0o755 }];
    const { oracle, error } = await check({ ...task, solution }, parts);
    if (error?.startsWith("solution/solve.sh") && oracle !== 1) continue;
    if (error !== undefined && !error.startsWith("solution/solve.sh")) return `after ${name}: ${error}`;
    if (oracle === expected) continue;
    const claim = expected === 1 ? "should pass the tests" : "should not pass the tests";
    return `${name} ${claim} and scores ${oracle}`;
  }
  return undefined;
}
