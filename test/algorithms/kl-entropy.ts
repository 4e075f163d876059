/** Golden vectors of divergences, entropy and token log-probabilities (`03`). */

import { z } from "zod";
import { entropy, fullKl, type LogitFunction, tokenLogprob } from "../../src/algorithms/distribution.ts";
import { adaptKlCoefficient, type KlKind, klLoss, rewardsWithKl } from "../../src/algorithms/kl.ts";
import { discountedReturns } from "../../src/algorithms/reinforce.ts";
import { mean } from "../../src/algorithms/statistics.ts";
import {
  at,
  compareNumber,
  compareNumbers,
  compareRows,
  negate,
  type Operation,
  Row,
  Rows,
  report,
  requireZeros,
} from "./compare.ts";

const KINDS: Readonly<Record<string, KlKind>> = {
  k1: "k1",
  abs: "abs",
  mse: "k2",
  k3: "k3",
  k3_clamp_d: "k3-clamped-ratio",
};
const Kind = z.enum(["k1", "abs", "mse", "k3", "k3_clamp_d"]).transform((name) => KINDS[name] as KlKind);

const KlSchema = z.object({
  inputs: z.object({ logp: Row, logp_ref: Row, kind: Kind }),
  expected: z.object({ kl: Row, sum: z.number(), grad: Row }),
});

function checkKl(golden: unknown): string {
  const { inputs, expected } = KlSchema.parse(golden);
  const { logp: logprobs_T, logp_ref: reference_T, kind } = inputs;
  const mask_T = logprobs_T.map(() => 1);
  const output = klLoss({ logprobs_T, reference_T, mask_T }, { kind, tokens: 1 });
  return report(
    compareNumbers("kl", output.losses_T, expected.kl),
    compareNumber("sum", output.loss, expected.sum),
    compareRows("grad", negate([output.weights_T]), [expected.grad]),
  );
}

const FullSchema = z.object({
  inputs: z.object({ logits: Rows, logits_ref: Rows }),
  expected: z.object({ kl: Row, grad_logits: Rows }),
});

function checkFullKl(golden: unknown): string {
  const { inputs, expected } = FullSchema.parse(golden);
  const results = inputs.logits.map((logits, i) => fullKl(logits, at(inputs.logits_ref, i)));
  return compareLogits("kl", results, expected.kl, expected.grad_logits);
}

function compareLogits(
  what: string,
  results: readonly LogitFunction[],
  values: readonly number[],
  gradients?: readonly (readonly number[])[],
): string {
  return report(
    compareNumbers(
      what,
      results.map((result) => result.value),
      values,
    ),
    gradients === undefined
      ? 0
      : compareRows(
          "grad_logits",
          results.map((result) => result.gradient_V),
          gradients,
        ),
  );
}

const RewardSchema = z.object({
  inputs: z.object({ rewards: Rows, logp: Rows, logp_ref: Rows, mask: Rows, beta: z.number(), kind: Kind }),
  expected: z.object({ rewards: Rows, current_kl: z.number(), returns: Rows }),
});

function checkKlInReward(golden: unknown): string {
  const { inputs, expected } = RewardSchema.parse(golden);
  const { beta, kind } = inputs;
  const results = inputs.rewards.map((rewards_T, i) => {
    const input = {
      logprobs_T: at(inputs.logp, i),
      reference_T: at(inputs.logp_ref, i),
      mask_T: at(inputs.mask, i),
    };
    return rewardsWithKl(rewards_T, input, { beta, kind });
  });
  const rewards = results.map((result) => result.rewards_T);
  requireZeros("rewards", rewards, inputs.mask);
  const returns = rewards.map((rewards_T, i) => discountedReturns(rewards_T, at(inputs.mask, i), 1));
  const currentKl = mean(results.map((result) => result.meanKl));
  return report(
    compareRows("rewards", rewards, expected.rewards),
    compareNumber("current_kl", currentKl, expected.current_kl),
    compareRows("returns", returns, expected.returns),
  );
}

const ControllerSchema = z.object({
  inputs: z.object({ init: z.number(), target: z.number(), horizon: z.number(), kl: Row, n: Row }),
  expected: z.object({ beta: Row }),
});

function checkController(golden: unknown): string {
  const { inputs, expected } = ControllerSchema.parse(golden);
  let beta = inputs.init;
  const got = inputs.kl.map((kl, i) => {
    beta = adaptKlCoefficient(beta, { kl, samples: at(inputs.n, i) }, inputs);
    return beta;
  });
  return report(compareNumbers("beta", got, expected.beta));
}

const EntropySchema = z.object({
  inputs: z.object({ logits: Rows }),
  expected: z.object({ entropy: Row, grad_logits: Rows.optional() }),
});

function checkEntropy(golden: unknown): string {
  const { inputs, expected } = EntropySchema.parse(golden);
  const results = inputs.logits.map((logits) => entropy(logits));
  return compareLogits("entropy", results, expected.entropy, expected.grad_logits);
}

const LogpSchema = z.object({
  inputs: z.object({ logits: Rows, tokens: Row, temperature: z.number() }),
  expected: z.object({ logp: Row, grad_logits: Rows }),
});

function checkLogp(golden: unknown): string {
  const { inputs, expected } = LogpSchema.parse(golden);
  const results = inputs.logits.map((logits, i) => tokenLogprob(logits, at(inputs.tokens, i), inputs.temperature));
  return compareLogits("logp", results, expected.logp, expected.grad_logits);
}

export const KL_ENTROPY: readonly Operation[] = [
  ["kl/full", checkFullKl],
  ["kl/", checkKl],
  ["kl_in_reward/", checkKlInReward],
  ["controller/", checkController],
  ["entropy/", checkEntropy],
  ["logp/", checkLogp],
];
