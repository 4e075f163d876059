/**
 * Losses on preference pairs, from the log-probabilities of whole answers:
 * `z = (log π_c − log π_r) − (log ref_c − log ref_r)`.
 *
 * - DPO: `−log σ(β z)` (arXiv 2305.18290, equation 7);
 * - cDPO: `−(1 − s) log σ(β z) − s log σ(−β z)` for labels that are wrong with probability s
 *   (https://ericmitchell.ai/cdpo.pdf);
 * - IPO: `(z − 1/(2β))²` (arXiv 2310.12036, equation 17).
 */

/** Summed log-probabilities of the chosen and the rejected answer of one pair. */
export interface PreferencePair {
  readonly chosen: number;
  readonly rejected: number;
  readonly referenceChosen: number;
  readonly referenceRejected: number;
}

export interface PreferenceOptions {
  readonly type: "dpo" | "ipo";
  readonly beta: number;
  /** s of cDPO; 0 is DPO. IPO has none. */
  readonly labelSmoothing: number;
}

export interface PreferenceOutput {
  readonly loss: number;
  /** ∂loss/∂chosen; ∂loss/∂rejected is its negative. */
  readonly gradient: number;
  /** β (log π − log ref): the reward the policy implies. */
  readonly chosenReward: number;
  readonly rejectedReward: number;
  /** Does the policy prefer the chosen answer more than the reference does? */
  readonly isCorrect: boolean;
}

/** One pair; a batch is the mean over its pairs. */
export function preferenceLoss(pair: PreferencePair, options: PreferenceOptions): PreferenceOutput {
  const { beta } = options;
  const chosen = pair.chosen - pair.referenceChosen;
  const rejected = pair.rejected - pair.referenceRejected;
  const z = pair.chosen - pair.rejected - (pair.referenceChosen - pair.referenceRejected);
  return {
    ...(options.type === "ipo" ? ipo(z, beta) : dpo(z, beta, options.labelSmoothing)),
    chosenReward: beta * chosen,
    rejectedReward: beta * rejected,
    isCorrect: chosen > rejected,
  };
}

function ipo(z: number, beta: number) {
  const error = z - 1 / (2 * beta);
  return { loss: error ** 2, gradient: 2 * error };
}

function dpo(z: number, beta: number, smoothing: number) {
  const loss = -(1 - smoothing) * logSigmoid(beta * z) - smoothing * logSigmoid(-beta * z);
  const gradient = beta * (smoothing * sigmoid(beta * z) - (1 - smoothing) * sigmoid(-beta * z));
  return { loss, gradient };
}

function sigmoid(x: number): number {
  return Math.exp(logSigmoid(x));
}

/** log σ(x) without overflow. */
function logSigmoid(x: number): number {
  return Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
}
