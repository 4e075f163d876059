/**
 * What a second supervised stage learns from ("adaptive revisiting", arXiv 2512.24873, section 3.2): the policy's own
 * solutions, verified by the tasks' tests, the best of n, and demonstrations, both weighted to what it still fails. The paper
 * gives no formula; ours: a family's need is `floor` + (1 − `floor`) · (1 − success rate).
 */

import { mean } from "../algorithms/statistics.ts";
import { Rng } from "../core/rng.ts";
import { MACHINE_FAULTS, type StopReason, type TokenRecord, type Turn } from "../core/types.ts";

/** An episode of a task that was tried several times. */
export interface Attempt {
  readonly groupId: string;
  readonly member: number;
  readonly family: string;
  readonly reward: number;
  readonly stopReason: StopReason;
  /** What the guards raised. */
  readonly alerts?: readonly unknown[];
  readonly tokens: TokenRecord;
  readonly turns: readonly Turn[];
}

/** A task's shortest solution. */
export interface OwnSolution {
  readonly family: string;
  /** Share of its attempts that solved the task. */
  readonly rate: number;
  readonly attempt: Attempt;
}

export interface Revisited {
  /** Share of attempts that solved their task, by family. */
  readonly rates: ReadonlyMap<string, number>;
  /** One per task that was solved at least once, in the order of the tasks. */
  readonly solutions: readonly OwnSolution[];
}

/**
 * @param attempts in the order of their tasks; those that failed for a reason of the machine say nothing, and what the guards
 * raised an alert for is nobody's example.
 */
export function judgeAttempts(attempts: readonly Attempt[]): Revisited {
  const judged = attempts.filter(({ stopReason }) => !MACHINE_FAULTS.has(stopReason) && stopReason !== "cancelled");
  const isSolution = ({ reward, alerts = [] }: Attempt) => reward >= 1 && alerts.length === 0;
  const rateOf = (some: readonly Attempt[]) => mean(some.map((attempt) => (isSolution(attempt) ? 1 : 0)));
  const families = Map.groupBy(judged, ({ family }) => family);
  const solutions = [...Map.groupBy(judged, ({ groupId }) => groupId).values()].flatMap((group): OwnSolution[] => {
    const solved = group.filter((attempt) => isSolution(attempt) && attempt.tokens.mask.includes(1));
    const [attempt] = solved.toSorted((a, b) => a.tokens.ids.length - b.tokens.ids.length || a.member - b.member);
    return attempt === undefined ? [] : [{ family: attempt.family, rate: rateOf(group), attempt }];
  });
  return { rates: new Map([...families].map(([family, own]) => [family, rateOf(own)])), solutions };
}

/** Between `floor`, where everything succeeds, and 1, where nothing does. */
export function need(rate: number, floor: number): number {
  return floor + (1 - floor) * (1 - rate);
}

/**
 * At most `count` solutions, without repetition, each with a chance that grows with what its family and its task still fail
 * (weighted sampling by exponential keys: Efraimidis and Spirakis, https://doi.org/10.1016/j.ipl.2005.11.003).
 */
export function chooseSolutions(
  { rates, solutions }: Revisited,
  count: number,
  floor: number,
  key: string,
): OwnSolution[] {
  const rng = new Rng(key);
  const keyed = solutions.map((solution) => {
    const weight = need(rates.get(solution.family) ?? 0, floor) * need(solution.rate, floor);
    return { solution, key: -Math.log(1 - rng.next()) / weight };
  });
  return keyed
    .sort((a, b) => a.key - b.key)
    .slice(0, count)
    .map(({ solution }) => solution);
}

/** `count` shared out among families in proportion to their weights, largest remainders first; of equal ones the earlier. */
export function shareOut(count: number, weights: readonly number[]): number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (total === 0) return weights.map(() => 0);
  const exact = weights.map((weight) => (count * weight) / total);
  const shares = exact.map(Math.floor);
  const order = [...exact.keys()].sort(
    (a, b) => (exact[b] as number) - (shares[b] as number) - ((exact[a] as number) - (shares[a] as number)) || a - b,
  );
  const rest = count - shares.reduce((sum, share) => sum + share, 0);
  for (const i of order.slice(0, rest)) shares[i] = (shares[i] as number) + 1;
  return shares;
}
