import { expect, test } from "bun:test";
import { Agreement } from "./agreement.ts";
import { RatioMeter } from "./ratio-meter.ts";

const logs = (...probabilities: number[]) => Float64Array.from(probabilities, Math.log);

test("perplexities by sequence, divergence and probabilities by token, tokens outside of the mask left out", () => {
  const agreement = new Agreement();
  agreement.add(logs(0.9, 0.5, 0.25), logs(0.1, 0.25, 0.5), Uint8Array.of(0, 1, 1));
  agreement.add(logs(0.5, 0.3), logs(0.25, 0.3), Uint8Array.of(1, 0));
  agreement.add(logs(0.5), logs(0.5), Uint8Array.of(0));
  const metrics = agreement.metrics();
  // Geometric means of the sequences: training 1/√8 and 1/2, generation 1/√8 and 1/4.
  expect(metrics["rollout_corr/training_ppl"]).toBeCloseTo((Math.sqrt(8) + 2) / 2, 12);
  expect(metrics["rollout_corr/rollout_ppl"]).toBeCloseTo((Math.sqrt(8) + 4) / 2, 12);
  expect(metrics["rollout_corr/log_ppl_diff"]).toBeCloseTo(-Math.LN2 / 2, 12);
  expect(metrics["rollout_corr/ppl_ratio"]).toBeCloseTo((1 + 0.5) / 2, 12);
  // Ratios training / generation: 2, 1/2, 2.
  const [up, down] = [1 - Math.LN2, Math.LN2 - 0.5];
  expect(metrics["rollout_corr/k3_kl"]).toBeCloseTo((2 * up + down) / 3, 12);
  expect(metrics["rollout_corr/k3_kl_max"]).toBeCloseTo(up, 12);
  expect(metrics["rollout_corr/k3_kl_std"]).toBeCloseTo((up - down) / Math.sqrt(3), 12);
  expect(metrics["training/rollout_probs_diff_mean"]).toBeCloseTo(0.25, 12);
  expect(metrics["training/rollout_probs_diff_std"]).toBeCloseTo(0, 12);
  // (½, ¼), (¼, ½), (½, ¼): covariance −1/72, variances 1/72.
  expect(metrics["training/rollout_actor_probs_pearson_corr"]).toBeCloseTo(-1, 12);
});

test("no token has no measures, and one side without spread no correlation", () => {
  const agreement = new Agreement();
  expect(agreement.metrics()).toEqual({});
  agreement.add(logs(0.5, 0.5), logs(0.25, 0.5), Uint8Array.of(1, 1));
  expect(agreement.metrics()).not.toHaveProperty("training/rollout_actor_probs_pearson_corr");
});

test("how far tokens have moved, and what lies beyond the bounds whatever its advantage", () => {
  const meter = new RatioMeter({ loss: "ppo", ratio: "token", clip: 0.2, clipHigh: 0.3, dualClip: 3 });
  expect(meter.metrics()).toEqual({});
  meter.add({
    logprobs_T: logs(0.9, 0.5, 0.1, 0.4, 0.25),
    behaviour_T: logs(0.1, 0.4, 0.2, 0.1, 0.25),
    advantages_T: [1, 1, 1, -1, -1],
    mask_T: Uint8Array.of(0, 1, 1, 1, 1),
  });
  const metrics = meter.metrics();
  // Ratios 1.25, 0.5, 4, 1.
  expect(metrics["actor/policykl"]).toBeCloseTo(Math.log(2.5) / 4, 12);
  expect(metrics["actor/ratio_mean"]).toBeCloseTo(6.75 / 4, 12);
  expect(metrics["actor/ratio_max"]).toBeCloseTo(4, 12);
  expect(metrics["actor/ratio_min"]).toBeCloseTo(0.5, 12);
  expect(metrics).toMatchObject({
    ...{ "actor/ppo_ratio_clipfrac": 0.5, "actor/ppo_ratio_high_clipfrac": 0.25, "actor/ppo_ratio_low_clipfrac": 0.25 },
    "actor/pg_clipfrac_lower": 0.25,
  });
  const other = new RatioMeter({ loss: "vanilla", ratio: "token", clip: 0.2 });
  other.add({ logprobs_T: logs(0.5), behaviour_T: logs(0.25), advantages_T: [1], mask_T: [1] });
  expect(Object.keys(other.metrics()).sort()).toEqual(
    ["policykl", "ratio_max", "ratio_mean", "ratio_min"].map((name) => `actor/${name}`),
  );
});
