/** From an `algorithm` table to all of its components, and which of them do not go together. */

import type { AlgorithmConfig, AlgorithmType } from "./algorithm.ts";
import {
  COMPONENTS,
  type ComponentKey,
  type Components,
  type Correction,
  ESTIMATORS,
  type Estimator,
  LOSSES,
  type Loss,
  type Scope,
} from "./components.ts";

type Choice = { readonly advantage: Estimator; readonly loss: Loss };

/** What a type stands for; its own settings are in `algorithm.ts`. */
const TYPES: Readonly<Record<AlgorithmType, Choice & { readonly settings?: Partial<Components> }>> = {
  grpo: { advantage: "grpo", loss: "ppo" },
  ppo: { advantage: "gae", loss: "ppo" },
  reinforce: { advantage: "reinforce", loss: "vanilla" },
  rloo: { advantage: "rloo", loss: "ppo" },
  reinforce_plus_plus: { advantage: "reinforce_plus_plus", loss: "ppo" },
  lite_ppo: { advantage: "lite_ppo", loss: "ppo" },
  topr: { advantage: "grpo", loss: "topr" },
  tis: { advantage: "grpo", loss: "tis" },
  cispo: { advantage: "grpo", loss: "cispo" },
  gspo: { advantage: "grpo", loss: "gspo" },
  ipa: { advantage: "ipa", loss: "ipa" },
  gigpo: { advantage: "gigpo", loss: "ppo" },
  step_reinforce: { advantage: "step_reinforce", loss: "ppo", settings: { whiten: true } },
  kimi: { advantage: "grpo", loss: "kimi" },
  decoupled_ppo: { advantage: "grpo", loss: "ppo", settings: { correction: { weight: "token" } } },
};

/** The settings an estimator reads, and what they are where nothing says otherwise. */
const ESTIMATOR_SETTINGS: Readonly<Record<Estimator, Partial<Components>>> = {
  reinforce: { normMean: "group", normStd: "none", discount: 1, compact: true },
  gae: {
    ...{ normMean: "none", normStd: "none", discount: 1, lambda: 0.95, compact: true, whitenRewards: false },
    ...{ valueClip: 0.2, valueWeight: 0.5, valueLr: 1e-3, trunk: true },
  },
  grpo: { normMean: "group", normStd: "group" },
  rloo: {},
  reinforce_plus_plus: { normMean: "batch", normStd: "batch" },
  lite_ppo: { normMean: "group", normStd: "batch" },
  gigpo: { normStd: "group", discount: 0.95, state: "history", episodeWeight: 1, stepWeight: 1 },
  step_reinforce: { normMean: "none", normStd: "none", discount: 0.95 },
  ipa: { failure: "group-centred", normMean: "group", normStd: "none", discount: 0.95 },
};

const LOSS_SETTINGS: Readonly<Record<Loss, Partial<Components>>> = {
  vanilla: {},
  ppo: { ratio: "token", clip: 0.2, ...unset("clipHigh", "dualClip") },
  tis: { ratio: "token", lower: 0, upper: 1 },
  topr: { ratio: "token", positives: "advantage", positiveWeight: 1, negativeWeight: 1 },
  cispo: { ratio: "token", clipLow: 1, clipHigh: 0.2, unifiedMask: false },
  kimi: { tau: 0.1 },
  gspo: { clipLow: 0.03, clipHigh: 0.04, aggregation: "seq-mean-token-mean" },
  ipa: { positives: "advantage", mismatchHigh: 1.05, mismatchLow: 0 },
};

/** Settings of every algorithm. */
const COMMON = {
  whiten: false,
  proximal: "behaviour" as const,
  aggregation: "token-mean" as const,
  entropy: 0,
  lengthWeight: false,
  difficultyWeight: false,
  ...unset("rewardClip", "advantageClip", "normLength", "correction"),
} satisfies Partial<Components>;

/** Estimators that tell the turns, or the tokens, of an episode apart. */
const BY_TURN: readonly Estimator[] = ["gae", "gigpo", "step_reinforce", "ipa"];

type Optional = "rewardClip" | "advantageClip" | "clipHigh" | "dualClip" | "normLength" | "correction";

/** Every component of an algorithm, with a value also where its estimator and its loss do not read it. */
export type Composition = { readonly [K in Exclude<ComponentKey, Optional>]: Components[K] } & {
  readonly [K in Optional]?: Components[K] | undefined;
};

function unset(...keys: ComponentKey[]): Partial<Components> {
  return Object.fromEntries(keys.map((key) => [key, undefined])) as Partial<Components>;
}

/** Fills in what a table leaves open: first by its type, then by estimator and loss. */
export function composeAlgorithm(config: AlgorithmConfig): Composition {
  const { type, ...rest } = config;
  const choice = choiceOf(config);
  const given: Record<string, unknown> = { ...TYPES[type].settings, ...definedOf(rest) };
  const defaults = settingsRead(choice);
  if (given.failure === "minus-one") defaults.normMean = "none";
  if (choice.loss === "ipa" || given.correction !== undefined) defaults.proximal = "recompute";
  const read = Object.entries(given).filter(([key]) => Object.hasOwn(defaults, key));
  const unread = Object.assign({}, ...Object.values(ESTIMATOR_SETTINGS), ...Object.values(LOSS_SETTINGS));
  return { ...unread, ...defaults, ...olderNames(config), ...Object.fromEntries(read), ...choice };
}

/** The components that matter to an algorithm, in the order in which they act. */
export function componentsRead(config: AlgorithmConfig): ComponentKey[] {
  const read = { ...settingsRead(choiceOf(config)), advantage: 0, loss: 0 };
  return (Object.keys(COMPONENTS) as ComponentKey[]).filter((key) => Object.hasOwn(read, key));
}

/** The keys of a table that still mean something once its type is another one. */
export function settingsOfType(type: AlgorithmType, { advantage, loss }: Readonly<Record<string, unknown>>): string[] {
  const isKnown = <T extends string>(name: unknown, names: readonly T[]): name is T => names.includes(name as T);
  const given = {
    ...(isKnown(advantage, ESTIMATORS) && { advantage }),
    ...(isKnown(loss, LOSSES) && { loss }),
  };
  return componentsRead({ type, ...given } as AlgorithmConfig);
}

/** What an estimator and a loss read, with the values it has by default. */
function settingsRead({ advantage, loss }: Choice): Partial<Components> {
  return { ...COMMON, ...ESTIMATOR_SETTINGS[advantage], ...LOSS_SETTINGS[loss] };
}

function choiceOf(config: AlgorithmConfig): Choice {
  const { advantage, loss } = TYPES[config.type];
  return { advantage: config.advantage ?? advantage, loss: config.loss ?? loss };
}

/** `normalizeStd` and `baseline` are names for what `normStd` and `normMean` say, of the types that had them first. */
function olderNames(config: AlgorithmConfig): { readonly normMean?: Scope; readonly normStd?: Scope } {
  if (choiceOf(config).advantage !== TYPES[config.type].advantage) return {};
  return {
    ...("baseline" in config && { normMean: config.baseline }),
    ...("normalizeStd" in config && !config.normalizeStd && { normStd: "none" as const }),
  };
}

function definedOf(table: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(table).filter(([, value]) => value !== undefined));
}

/** Does the estimate come from values that are learned beside the policy? */
export function hasCritic({ advantage }: Choice): boolean {
  return advantage === "gae";
}

export interface AlgorithmProblem {
  /** Key within the table. */
  readonly path: readonly (string | number)[];
  /** The rest of a sentence that begins with the key. */
  readonly message: string;
}

/** What does not go together in a table. `defaults` is what the table's type sets by itself. */
export function algorithmProblems(config: AlgorithmConfig, defaults: AlgorithmConfig): AlgorithmProblem[] {
  return [...unreadSettings(config, defaults), ...older(config), ...contradictions(composeAlgorithm(config))];
}

/** Settings that neither the estimator nor the loss reads. */
function unreadSettings(config: AlgorithmConfig, defaults: AlgorithmConfig): AlgorithmProblem[] {
  const known: readonly string[] = [...componentsRead(config), ...OLDER_NAMES, "type"];
  const own = defaults as Readonly<Record<string, unknown>>;
  const strange = Object.entries(definedOf(config)).filter(
    ([key, value]) => !known.includes(key) && own[key] !== value,
  );
  return strange.map(([key]) => ({ path: [key], message: belongsTo(key as ComponentKey, choiceOf(config)) }));
}

function belongsTo(key: ComponentKey, { advantage, loss }: Choice): string {
  const losses = Object.entries(LOSS_SETTINGS).filter(([, settings]) => Object.hasOwn(settings, key));
  const readers =
    losses.length > 0 ? losses : Object.entries(ESTIMATOR_SETTINGS).filter(([, s]) => Object.hasOwn(s, key));
  const names = readers.map(([name]) => JSON.stringify(name)).join(", ");
  return losses.length > 0
    ? `belongs to loss ${names}, and the loss is "${loss}"`
    : `belongs to advantage ${names}, and the advantage is "${advantage}"`;
}

const OLDER_NAMES: readonly string[] = ["baseline", "normalizeStd"];

function older(config: AlgorithmConfig): AlgorithmProblem[] {
  const problems: AlgorithmProblem[] = [];
  const isOther = choiceOf(config).advantage !== TYPES[config.type].advantage;
  if ("baseline" in config && config.baseline !== "group") {
    if (config.normMean !== undefined)
      problems.push({ path: ["baseline"], message: "says the same as normMean; set one" });
    else if (isOther) problems.push({ path: ["baseline"], message: 'belongs to advantage "reinforce"; set normMean' });
  }
  if ("normalizeStd" in config && !config.normalizeStd) {
    if (config.normStd !== undefined)
      problems.push({ path: ["normalizeStd"], message: "says the same as normStd; set one" });
    else if (isOther) problems.push({ path: ["normalizeStd"], message: 'belongs to advantage "grpo"; set normStd' });
  }
  return problems;
}

function contradictions(composition: Composition): AlgorithmProblem[] {
  const { advantage, loss, ratio, normMean, normStd, aggregation, normLength, proximal, correction } = composition;
  const problems: AlgorithmProblem[] = [];
  const refuse = (key: ComponentKey, message: string) => problems.push({ path: [key], message });
  const sharesRatio = loss === "gspo" ? "sequence" : loss === "ppo" ? ratio : "token";
  if (sharesRatio === "sequence" && BY_TURN.includes(advantage))
    refuse(
      "advantage",
      `is "${advantage}", whose turns differ; one ratio per episode would give all of them their mean`,
    );
  if (sharesRatio === "chunk" && advantage === "gae")
    refuse("ratio", 'is "chunk"; one ratio per turn would give its tokens the mean of their advantages');
  if ((advantage === "gigpo" || advantage === "step_reinforce") && (normMean === "running" || normStd === "running"))
    refuse(normMean === "running" ? "normMean" : "normStd", `cannot be "running" with advantage "${advantage}"`);
  if (advantage === "gigpo" && composition.rewardClip !== undefined)
    refuse("rewardClip", 'does nothing for advantage "gigpo"; use advantageClip');
  if (advantage === "gigpo" && normStd === "batch")
    refuse("normStd", 'cannot be "batch" with advantage "gigpo", which compares within groups and states');
  if (aggregation === "seq-mean-token-sum-norm" && normLength === undefined)
    refuse("normLength", "is missing; aggregation seq-mean-token-sum-norm divides by it");
  if (aggregation !== "seq-mean-token-sum-norm" && normLength !== undefined)
    refuse("normLength", "belongs to aggregation seq-mean-token-sum-norm");
  if (loss === "ipa" && proximal === "behaviour")
    refuse("proximal", 'cannot be "behaviour" with loss "ipa", which compares the two');
  if (correction !== undefined && proximal === "behaviour")
    refuse("proximal", 'cannot be "behaviour" with a correction, which compares the two');
  return [...problems, ...correctionProblems(correction)];
}

function correctionProblems(correction: Correction | undefined): AlgorithmProblem[] {
  if (correction === undefined) return [];
  const { weight, weightBound, filters } = correction;
  const problems: AlgorithmProblem[] = [];
  if (weight === undefined && filters === undefined)
    problems.push({ path: ["correction"], message: "has neither a weight nor filters" });
  if (weight === undefined && weightBound !== undefined)
    problems.push({
      path: ["correction", "weightBound"],
      message: "needs a weight, which is token, chunk, sequence or product",
    });
  for (const [i, { ratioLow, ratioHigh, differenceLow, differenceHigh }] of (filters ?? []).entries()) {
    const path = ["correction", "filters", i];
    if ([ratioLow, ratioHigh, differenceLow, differenceHigh].every((bound) => bound === undefined))
      problems.push({ path, message: "has no bound: ratioLow, ratioHigh, differenceLow, differenceHigh" });
    if ((ratioLow ?? 0) > (ratioHigh ?? Number.POSITIVE_INFINITY))
      problems.push({ path: [...path, "ratioLow"], message: "is above ratioHigh" });
    if ((differenceLow ?? -1) > (differenceHigh ?? 1))
      problems.push({ path: [...path, "differenceLow"], message: "is above differenceHigh" });
  }
  return problems;
}
