/** Results as a table: one row per arm, means over seeds with their intervals. */

import { type Measure, pointAt } from "./outcome.ts";
import type { Arm, Plan } from "./plans.ts";
import type { Result } from "./results.ts";
import { areApart, type Estimate, estimate } from "./statistics.ts";

export interface ArmSummary {
  readonly arm: string;
  readonly seeds: readonly number[];
  /** Held-out success at the plan's environment steps, sampled and greedy, and of the worst family. */
  readonly sampled: Estimate;
  readonly greedy: Estimate | null;
  readonly minimum: Estimate;
  readonly initial: Estimate;
  readonly envSteps: Estimate;
  readonly prefixTurns: Estimate;
  readonly wallSeconds: Estimate;
  /** Largest gradient norm of a run over its median. */
  readonly gradNormSpike: Estimate;
  readonly means: Partial<Record<Measure, Estimate>>;
}

export function summarizeArm(arm: Arm, results: readonly Result[], envSteps: number | undefined): ArmSummary {
  const points = results.map((result) => pointAt(result, envSteps));
  const greedy = points.flatMap((point) => point.greedy ?? []);
  return {
    arm: arm.name,
    seeds: results.map(({ seed }) => seed),
    sampled: estimate(points.map(({ rate }) => rate)),
    greedy: greedy.length === 0 ? null : estimate(greedy),
    minimum: estimate(points.map(({ minimum }) => minimum)),
    initial: estimate(results.map(({ curve }) => curve[0]?.rate ?? 0)),
    envSteps: estimate(points.map((point) => point.envSteps)),
    prefixTurns: estimate(points.map(({ prefixTurns }) => prefixTurns)),
    wallSeconds: estimate(results.map((result) => result.wallSeconds)),
    gradNormSpike: estimate(results.map(({ gradNorm }) => gradNorm.max / Math.max(gradNorm.median, 1e-12))),
    means: meansOf(results),
  };
}

function meansOf(results: readonly Result[]): ArmSummary["means"] {
  const perName = Map.groupBy(
    results.flatMap(({ means = {} }) => Object.entries(means)),
    ([name]) => name,
  );
  return Object.fromEntries([...perName].map(([name, all]) => [name, estimate(all.map(([, value]) => value))]));
}

const percent = ({ mean, low, high }: Estimate) => {
  const points = (value: number) => (value * 100).toFixed(1);
  return low === null || high === null ? points(mean) : `${points(mean)} [${points(low)}, ${points(high)}]`;
};
const whole = ({ mean }: Estimate) => mean.toFixed(0);

/** Markdown. The first arm that has results is what the others are compared with. */
export function table(plan: Plan, summaries: readonly ArmSummary[]): string {
  const { measures = [] } = plan;
  const rows = summaries.map((one) => [
    one.arm,
    String(one.seeds.length),
    percent(one.initial),
    percent(one.sampled),
    one.greedy === null ? "–" : percent(one.greedy),
    percent(one.minimum),
    whole(one.envSteps),
    whole(one.prefixTurns),
    one.gradNormSpike.mean.toFixed(1),
    whole(one.wallSeconds),
    ...measures.map((name) => one.means[name]?.mean.toPrecision(3) ?? "–"),
  ]);
  const head = ["arm", "seeds", "start %", "sampled %", "greedy %", "worst family %"];
  const rest = ["env steps", "forked prefix turns", "max / median gradient norm", "seconds", ...measures];
  const lines = [[...head, ...rest], [...head, ...rest].map(() => "---"), ...rows].map(
    (row) => `| ${row.join(" | ")} |`,
  );
  const at = plan.envSteps === undefined ? "the end of each run" : `${plan.envSteps} environment steps`;
  const [first, ...others] = summaries;
  const apart = others.map((one) => {
    const answer =
      first !== undefined && areApart(first.sampled, one.sampled) ? "do not overlap" : "overlap or are unknown";
    return `${first?.arm} and ${one.arm}: the 95 % intervals of sampled success ${answer}`;
  });
  return [`${plan.about}; held-out success at ${at}`, "", ...lines, "", ...apart].join("\n");
}
