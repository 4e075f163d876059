/**
 * Metrics have verl's names where it has one. Other trainers' users look for theirs: `metrics.jsonl` has each of these numbers
 * under all names. What is measured is named so in `timing_s/` and `perf/`, so that lines of a deterministic run differ there
 * only; other names for it are metrics of their own, which those runs have not (`otherTimeMetrics`).
 */

/** Our name → names in TRL, ROLL, verl, prime-rl, SkyRL, slime and tinker (docs/metrics.md). */
export const ALIASES: Readonly<Record<string, readonly string[]>> = {
  step: ["training/global_step"],
  "critic/rewards/mean": [
    ...["reward", "critic/score/mean", "rollout/score/mean"],
    ...["reward/all/mean", "reward/avg_raw_reward", "env/all/reward/total"],
  ],
  "critic/rewards/max": ["critic/score/max"],
  "critic/rewards/min": ["critic/score/min"],
  "reward/outcome": ["rewards/outcome/mean"],
  "reward/format": ["rewards/format/mean"],
  "reward/length": ["rewards/length/mean"],
  "reward/judge": ["rewards/judge/mean"],
  "reward/ranking": ["rewards/ranking/mean"],
  "reward/function": ["rewards/function/mean"],
  "actor/pg_loss": ["loss"],
  "actor/entropy": ["entropy", "critic/entropy/mean", "entropy/all/mean", "optim/entropy"],
  "actor/grad_norm": ["grad_norm", "actor_train/grad_norm", "optim/grad_norm"],
  "actor/lr": ["learning_rate", "optim/lr"],
  "actor/pg_clipfrac": ["clip_ratio/region_mean", "actor/clipfrac", "train/pg_clipfrac"],
  "clip_ratio/low_mean": ["clip_ratio/low_min", "masked_advantage_negative/mean"],
  "clip_ratio/high_mean": ["clip_ratio/high_max", "masked_advantage_positive/mean"],
  "actor/ppo_kl": ["actor/approxkl", "train/ppo_kl"],
  "actor/kl_loss": ["kl", "loss/avg_kl", "train/kl_loss"],
  "response_length/mean": ["completions/mean_length", "rollout/response_length/mean"],
  "response_length/max": ["completions/max_length"],
  "response_length/min": ["completions/min_length"],
  "response_length/clip_ratio": ["completions/clipped_ratio", "is_truncated/all/mean"],
  "sequence_length/mean": ["seq_len/all/mean"],
  "num_turns/mean": ["num_turns/all/mean"],
  "rollout_corr/k3_kl": ["mismatch_kl/all/mean"],
  "rollout_corr/k3_kl_std": ["mismatch_kl/all/std"],
  "rollout_corr/k3_kl_max": ["mismatch_kl/all/max"],
  "rollout_corr/logprob_abs_diff_mean": [
    ...["policy/rollout_train_logprobs_abs_diff_mean", "train/train_rollout_logprob_abs_diff"],
  ],
  "async/age/mean": ["scheduler/off_policy_ratio"],
  "async/staleness/mean": ["training/off_policy/trajectory_staleness/mean", "off_policy/mean", "async/staleness_mean"],
  "async/staleness/max": ["off_policy/max", "async/staleness_max"],
  "async/groups_dropped": [
    ...["async/num_groups_dropped", "off_policy/dropped", "fully_async/count/dropped_stale_samples"],
  ],
  "async/in_queue/mean": ["off_policy/in_queue/mean"],
  "async/in_queue/max": ["off_policy/in_queue/max"],
  "async/in_flight/mean": ["off_policy/in_flight/mean"],
  "async/in_flight/max": ["off_policy/in_flight/max"],
  "async/groups_filtered": ["scheduler/group_filter_count"],
  "val/dev/sampled/mean": ["val-core/dev/acc/mean@1", "eval/dev/avg@1"],
  "val/heldout/sampled/mean": ["val-core/heldout/acc/mean@1", "eval/heldout/avg@1"],
  "timing_s/step": ["perf/time_per_step", "perf/step_time"],
  "perf/max_memory_allocated_gb": ["perf/peak_memory"],
  step_time: ["time/step"],
};

/** The metrics of a step under all their names; a name that a metric has already is its own. */
export function withAliases<T>(metrics: Readonly<Record<string, T>>): Record<string, T> {
  const all: Record<string, T> = { ...metrics };
  for (const [name, aliases] of Object.entries(ALIASES)) {
    const value = metrics[name];
    if (value !== undefined) for (const alias of aliases) if (!(alias in metrics)) all[alias] = value;
  }
  return all;
}
