/**
 * One training step inside the engine: forward → algorithm → backward → AdamW, for each minibatch (DESIGN D9).
 *
 * The weights being trained are never the published ones: each optimizer step reads one slot of the parameter store and
 * writes another, and the step's result is published by the caller when all minibatches are done. A crash on the way
 * leaves the published weights as they were.
 */

import type { KlKind } from "../algorithms/kl.ts";
import type { Composition } from "../config/composition.ts";
import { AleError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import type { ParameterStore, Slot } from "../models/parameter-store.ts";
import { assignCredit, type Credit } from "./credit.ts";
import { type DistillationJob, distillationGradients, type TeacherJob, teacherCandidates } from "./distillation.ts";
import type { BackwardTerms, ForwardResult, ForwardTerms } from "./loss-terms.ts";
import { type Current, minibatchLoss } from "./minibatch.ts";
import { checkParity, type Mismatch, MismatchMeter, NO_MISMATCH, type ParityLimits } from "./mismatch.ts";
import { type PreferenceJob, preferenceGradients } from "./preference.ts";
import { RatioMeter } from "./ratio-meter.ts";

/** Settings of one AdamW step. */
export interface OptimizerSettings {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  /** Global gradient-norm clip; 0 = off. */
  readonly clip: number;
  /** Learning rate of the value head. */
  readonly valueLr?: number;
}

type Eventually<T> = T | Promise<T>;

/**
 * The numeric engine as this file needs it: `Learner`, or one of several engines that share the work. `slot` names a slot
 * of the parameter store.
 */
export interface PolicyLearner {
  /** Teacher-forced log p(token t | tokens < t) per sequence, at `temperature`, and what else `terms` ask for. */
  forward(
    sequences: readonly Int32Array[],
    slot: Slot,
    temperature: number,
    terms?: ForwardTerms,
  ): Eventually<ForwardResult>;
  /** Log-probabilities under the frozen reference. */
  referenceLogprobs(sequences: readonly Int32Array[], temperature: number): Eventually<Float32Array[]>;
  /** Adds the gradients of −Σ w_t log p_t, and of the other terms, under the weights of `slot` to the accumulated ones. */
  backward(
    sequences: readonly Int32Array[],
    weights: readonly Float32Array[],
    slot: Slot,
    temperature: number,
    terms?: BackwardTerms,
  ): Eventually<{ readonly loss: number; readonly entropy: number; readonly divergence: number }>;
  /** Clips, applies AdamW from one slot to another and clears the gradients. */
  step(settings: OptimizerSettings, from: Slot, to: Slot): Eventually<{ readonly gradNorm: number }>;
  /** Forgets gradients of an update that was given up. */
  clearGradients(): void;
}

/** Reinforcement learning on trajectories; arrays are per sequence and per token. */
export interface PolicyJob {
  readonly kind: "policy";
  readonly sequences: readonly Int32Array[];
  readonly masks: readonly Uint8Array[];
  /** Log-probabilities under the distribution that was sampled from. */
  readonly behaviour: readonly Float32Array[];
  /** Of each token; what a critic or a divergence inside the reward comes to is worked out in the update. */
  readonly advantages: readonly Float32Array[];
  /** Reward of each episode after normalisation and clipping: what a critic's advantages are estimated from. */
  readonly shapedRewards: readonly number[];
  /** Turn of each token, −1 where the mask is 0. */
  readonly turnIds: readonly Int32Array[];
  /** Raw reward of each sequence's episode. */
  readonly rewards: readonly number[];
  /** Group of each sequence. */
  readonly groups: readonly number[];
  /** Weight of each episode in the loss; 1 when omitted. */
  readonly episodeWeights?: readonly number[];
  /** Divergence from the frozen reference, in the loss or taken off the rewards. */
  readonly kl?: { readonly in: "loss" | "reward"; readonly estimator: KlKind | "full"; readonly coefficient: number };
  /** A teacher's say about the sequences. */
  readonly teacher?: TeacherJob;
  readonly algorithm: Composition;
  readonly temperature: number;
  readonly minibatches: number;
  readonly epochs: number;
  /**
   * Log-probabilities at `temperature` before truncation and penalty, which training can be compared with; omitted where they
   * are not known (a truncated sampler at another temperature than 1).
   */
  readonly untruncated?: readonly Float32Array[];
  /** Weight version that sampled each token, and the oldest one of the cache it attended to. */
  readonly versions: readonly Int32Array[];
  readonly kvOldest: readonly Int32Array[];
  readonly parityLimits: ParityLimits;
  /** Sequences to imitate beside the episodes, with the final weight of each token; shared out among the minibatches. */
  readonly imitation?: { readonly sequences: readonly Int32Array[]; readonly weights: readonly Float32Array[] };
  /** Key of the minibatch order. */
  readonly orderKey: string;
  readonly optimizer: OptimizerSettings;
}

/** Supervised learning: weights are given, one minibatch. */
export interface SupervisedJob {
  readonly kind: "supervised";
  readonly sequences: readonly Int32Array[];
  readonly weights: readonly Float32Array[];
  readonly optimizer: OptimizerSettings;
}

export type UpdateJob = PolicyJob | SupervisedJob | PreferenceJob | DistillationJob;

export interface UpdateResult {
  /** Slot that holds the new weights, not yet published. */
  readonly slot: Slot;
  readonly loss: number;
  readonly gradNorm: number;
  readonly entropy: number;
  readonly clipFraction: number;
  readonly approxKl: number;
  /** Training's log-probabilities beside generation's, before anything is learned; all 0 for supervised jobs. */
  readonly mismatch: Mismatch;
  readonly updates: number;
  readonly tokens: number;
  /** What only some algorithms and settings have to say, under the names of metrics. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly ms: number;
}

/** Runs a job and returns where the new weights are. Throws `AleError("engine")` when gradients are not finite. */
export async function runUpdate(learner: PolicyLearner, store: ParameterStore, job: UpdateJob): Promise<UpdateResult> {
  const started = performance.now();
  const published = store.published?.slot;
  if (published === undefined) throw new AleError("engine", "there are no published weights to train");
  learner.clearGradients();
  const result =
    job.kind === "policy"
      ? await policyUpdate(learner, store, published, job)
      : await oneUpdate(learner, store, published, job);
  return { ...result, ms: performance.now() - started };
}

/** Jobs whose every weight follows from one forward pass: one optimizer step. */
async function oneUpdate(
  learner: PolicyLearner,
  store: ParameterStore,
  published: Slot,
  job: Exclude<UpdateJob, PolicyJob>,
): Promise<Omit<UpdateResult, "ms">> {
  const slot = store.targetFor(published);
  const result = await gradientsOf(learner, job, published);
  const { gradNorm } = await optimize(learner, job.optimizer, published, slot);
  return { ...result, slot, gradNorm, clipFraction: 0, approxKl: 0, mismatch: NO_MISMATCH, updates: 1 };
}

function gradientsOf(learner: PolicyLearner, job: Exclude<UpdateJob, PolicyJob>, slot: Slot) {
  switch (job.kind) {
    case "preference":
      return preferenceGradients(learner, job, slot);
    case "distillation":
      return distillationGradients(learner, job, slot);
    case "supervised":
      return supervisedGradients(learner, job, slot);
  }
}

async function supervisedGradients(learner: PolicyLearner, { sequences, weights }: SupervisedJob, slot: Slot) {
  const { loss, entropy } = await learner.backward(sequences, weights, slot, 1);
  return { loss, entropy, tokens: sequences.reduce((sum, sequence) => sum + sequence.length, 0), metrics: {} };
}

async function policyUpdate(
  learner: PolicyLearner,
  store: ParameterStore,
  published: Slot,
  job: PolicyJob,
): Promise<Omit<UpdateResult, "ms">> {
  const sum = { ...NOTHING };
  let updates = 0;
  const meter = new MismatchMeter(store.published?.version ?? -1, {
    ...job,
    masks: job.untruncated === undefined ? [] : job.masks,
    generation: job.untruncated ?? [],
  });
  const ratios = new RatioMeter(job.algorithm);
  let slot: Slot = published;
  const credit = await assignCredit(learner, job, published);
  for (let epoch = 0; epoch < job.epochs; epoch++) {
    const order = new Rng(`${job.orderKey}/${epoch}`).shuffle(job.sequences.map((_, i) => i));
    const minibatches = split(order, job.minibatches);
    for (const [m, members] of minibatches.entries()) {
      const sequences = members.map((i) => job.sequences[i] as Int32Array);
      const current = await currentOutputs(learner, job, { members, sequences, slot, published, credit });
      if (slot === published) {
        for (const [k, i] of members.entries()) meter.add(i, current.logprobs[k] as Float32Array);
        checkParity(meter.summary().parity, job.parityLimits, "sampled tokens");
      }
      const batch = minibatchLoss(job, members, credit, current, ratios);
      const { weights, terms } = batch;
      const { entropy, divergence } = await learner.backward(sequences, weights, slot, job.temperature, terms);
      const imitated = await imitate(learner, job, { index: m, count: minibatches.length }, slot);
      const next = store.targetFor(slot);
      const { gradNorm } = await optimize(learner, job.optimizer, slot, next);
      const klLoss = batch.klLoss + fullKlLoss(job, divergence);
      addTo(sum, { ...batch, loss: batch.loss + imitated, klLoss, gradNorm, entropy });
      updates++;
      slot = next;
    }
  }
  const tokens = Math.max(1, sum.tokens);
  const count = Math.max(1, updates);
  return {
    slot,
    loss: sum.loss / count,
    gradNorm: sum.gradNorm / count,
    entropy: sum.entropy / count,
    clipFraction: sum.clipped / tokens,
    approxKl: sum.approxKl / tokens,
    mismatch: meter.summary(),
    updates,
    tokens: sum.tokens,
    metrics: { ...credit.metrics, ...termMetrics(job, credit, sum, count), ...ratios.metrics(), ...meter.agreement() },
  };
}

/** Sums over the minibatches of an update. */
const NOTHING = {
  ...{ loss: 0, klLoss: 0, valueLoss: 0, valuesClipped: 0, teacherLoss: 0 },
  ...{ gradNorm: 0, entropy: 0, clipped: 0, clippedLow: 0, approxKl: 0, tokens: 0 },
};
type Sums = typeof NOTHING;

function addTo(sum: Sums, minibatch: Sums): void {
  for (const key of Object.keys(sum) as (keyof Sums)[]) sum[key] += minibatch[key];
}

/** What was clipped at which end, and means of the loss's terms beside the policy's. */
function termMetrics({ kl, teacher }: PolicyJob, { critic }: Credit, sum: Sums, updates: number) {
  const tokens = Math.max(1, sum.tokens);
  return {
    ...(!Number.isNaN(sum.clippedLow) && {
      "clip_ratio/low_mean": sum.clippedLow / tokens,
      "clip_ratio/high_mean": (sum.clipped - sum.clippedLow) / tokens,
    }),
    ...(kl?.in === "loss" && { "actor/kl_loss": sum.klLoss / updates, "actor/kl_coef": kl.coefficient }),
    ...(critic && { "critic/vf_loss": sum.valueLoss / updates, "critic/vf_clipfrac": sum.valuesClipped / tokens }),
    ...(teacher?.in === "loss" && { "distill/loss": sum.teacherLoss / updates }),
  };
}

/** The divergence over the vocabulary that a minibatch's loss holds, before its coefficient. */
function fullKlLoss({ kl }: PolicyJob, weighted: number): number {
  return kl?.in === "loss" && kl.estimator === "full" && kl.coefficient > 0 ? -weighted / kl.coefficient : 0;
}

/** Adds the gradients of a minibatch's share of what is to be imitated; returns its loss. */
async function imitate(
  learner: PolicyLearner,
  job: PolicyJob,
  minibatch: { readonly index: number; readonly count: number },
  slot: Slot,
): Promise<number> {
  const { sequences = [], weights = [] } = job.imitation ?? {};
  const isMine = (_: unknown, i: number) => i % minibatch.count === minibatch.index;
  const mine = sequences.filter(isMine);
  return mine.length === 0 ? 0 : (await learner.backward(mine, weights.filter(isMine), slot, job.temperature)).loss;
}

interface Minibatch {
  readonly members: readonly number[];
  readonly sequences: readonly Int32Array[];
  readonly slot: Slot;
  readonly published: Slot;
  readonly credit: Credit;
}

/** What the weights of `slot` say about a minibatch; computed unless the weights that sampled were asked already. */
async function currentOutputs(
  learner: PolicyLearner,
  job: PolicyJob,
  { members, sequences, slot, published, credit }: Minibatch,
): Promise<Current> {
  const { old, critic } = credit;
  const candidates = job.teacher?.in === "loss" ? teacherCandidates(job.teacher, members) : undefined;
  if (slot !== published || old === undefined || candidates !== undefined) {
    const asked = { ...(critic && { values: true }), ...(candidates && { candidates }) };
    return learner.forward(sequences, slot, job.temperature, asked);
  }
  const pick = (rows: readonly Float32Array[]) => members.flatMap((i) => rows[i] ?? []);
  return { logprobs: pick(old.logprobs), values: pick(old.values), candidateLogprobs: [] };
}

async function optimize(learner: PolicyLearner, settings: OptimizerSettings, from: Slot, to: Slot) {
  const result = await learner.step(settings, from, to);
  if (!Number.isFinite(result.gradNorm)) {
    throw new AleError("engine", `the gradient norm is ${result.gradNorm}; the update was thrown away`, {
      hint: "lower optimizer.lr or turn on optimizer.clip",
    });
  }
  return result;
}

/** Cuts `items` into at most `parts` runs of nearly equal length. */
function split<T>(items: readonly T[], parts: number): T[][] {
  const count = Math.min(parts, items.length);
  return Array.from({ length: count }, (_, i) =>
    items.slice(Math.floor((i * items.length) / count), Math.floor(((i + 1) * items.length) / count)),
  );
}
