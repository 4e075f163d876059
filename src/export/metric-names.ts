/**
 * Metrics have verl's names where it has one. Other trainers' users look for theirs: `metrics.jsonl` has each of these numbers
 * under all names. Measured times and rates are left out, so that lines of a deterministic run differ in `timing_s/` and
 * `perf/` only.
 */

/** Our name → names in TRL, ROLL, verl's asynchronous trainers, prime-rl and SkyRL (docs/metrics.md). */
export const ALIASES: Readonly<Record<string, readonly string[]>> = {
  "critic/rewards/mean": ["reward", "critic/score/mean", "rollout/score/mean"],
  "actor/pg_loss": ["loss"],
  "actor/entropy": ["entropy", "critic/entropy/mean"],
  "actor/grad_norm": ["grad_norm", "actor_train/grad_norm"],
  "actor/lr": ["learning_rate"],
  "actor/pg_clipfrac": ["clip_ratio/region_mean", "actor/clipfrac"],
  "actor/ppo_kl": ["actor/approxkl"],
  "actor/kl_loss": ["kl"],
  "response_length/mean": ["completions/mean_length", "rollout/response_length/mean"],
  "rollout_corr/kl": ["mismatch_kl/all/mean"],
  "rollout_corr/logprob_abs_diff_mean": ["policy/rollout_train_logprobs_abs_diff_mean"],
  "async/age/mean": ["scheduler/off_policy_ratio"],
  "async/staleness/mean": ["training/off_policy/trajectory_staleness/mean", "off_policy/mean", "async/staleness_mean"],
  "async/staleness/max": ["off_policy/max", "async/staleness_max"],
  "async/groups_dropped": ["async/num_groups_dropped", "off_policy/dropped"],
  "async/groups_filtered": ["scheduler/group_filter_count"],
};

/** The metrics of a step under all their names. */
export function withAliases<T>(metrics: Readonly<Record<string, T>>): Record<string, T> {
  const all: Record<string, T> = { ...metrics };
  for (const [name, aliases] of Object.entries(ALIASES)) {
    const value = metrics[name];
    if (value !== undefined) for (const alias of aliases) all[alias] = value;
  }
  return all;
}
