/**
 * REINFORCE on steps: each turn of a trajectory is a sample of its own, whose reward is the discounted sum of the step
 * scores from it on: `R_t = s_t + γ R_{t+1}` (`step_reinforce` of ROLL).
 */

/** One turn of one trajectory, as a sample. */
export interface StepSample {
  readonly trajectory: string;
  /** Position within the trajectory. */
  readonly step: number;
  readonly stepScore: number;
}

/** Discounted return of each sample within its trajectory; samples may come in any order. */
export function stepReturns(samples: readonly StepSample[], discount: number): number[] {
  const returns = new Array<number>(samples.length).fill(0);
  const order = samples.map((_, i) => i).sort((a, b) => stepOf(samples, b) - stepOf(samples, a));
  const after = new Map<string, number>();
  for (const i of order) {
    const { trajectory, stepScore } = samples[i] as StepSample;
    const value = stepScore + discount * (after.get(trajectory) ?? 0);
    after.set(trajectory, value);
    returns[i] = value;
  }
  return returns;
}

function stepOf(samples: readonly StepSample[], index: number): number {
  return (samples[index] as StepSample).step;
}
