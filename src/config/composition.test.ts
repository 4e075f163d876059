import { describe, expect, test } from "bun:test";
import { ALGORITHM_TYPES, AlgorithmSchema } from "./algorithm.ts";
import { componentsRead, composeAlgorithm, hasCritic } from "./composition.ts";

const compose = (settings: Record<string, unknown>) => composeAlgorithm(AlgorithmSchema.parse(settings));

/** The sentence an experiment with these settings is refused with. */
function refusal(settings: Record<string, unknown>): string {
  const { error } = AlgorithmSchema.safeParse({ type: "grpo", ...settings });
  const issue = error?.issues[0];
  return issue === undefined ? "accepted" : `${issue.path.join(".")} ${issue.message}`;
}

describe("a type", () => {
  test.each([
    ["grpo", { advantage: "grpo", normMean: "group", normStd: "group", loss: "ppo", clip: 0.2 }],
    ["ppo", { advantage: "gae", normMean: "none", whiten: true, lambda: 0.95, loss: "ppo" }],
    ["reinforce", { advantage: "reinforce", normMean: "group", normStd: "none", loss: "vanilla", discount: 1 }],
    ["reinforce_plus_plus", { normMean: "batch", normStd: "batch", loss: "ppo" }],
    ["lite_ppo", { normMean: "group", normStd: "batch", aggregation: "token-mean" }],
    ["topr", { advantage: "grpo", loss: "topr", positives: "advantage" }],
    ["gspo", { loss: "gspo", clipLow: 0.03, clipHigh: 0.04, aggregation: "seq-mean-token-mean" }],
    ["ipa", { advantage: "ipa", loss: "ipa", normMean: "group", normStd: "none", proximal: "recompute" }],
    ["gigpo", { advantage: "gigpo", discount: 0.95, state: "history" }],
    ["step_reinforce", { advantage: "step_reinforce", whiten: true, normMean: "none" }],
    ["kimi", { advantage: "grpo", loss: "kimi", tau: 0.1 }],
    ["decoupled_ppo", { loss: "ppo", correction: { weight: "token" }, proximal: "recompute" }],
  ])("%s is a choice of components", (type, expected) => {
    expect(compose({ type })).toMatchObject(expected);
  });

  test("of them all, only ppo has a critic, and only where engines are compared there is a forward pass more", () => {
    const having = (is: (type: string) => boolean) => ALGORITHM_TYPES.filter(is);
    expect(having((type) => hasCritic(compose({ type })))).toEqual(["ppo"]);
    expect(having((type) => compose({ type }).proximal === "recompute")).toEqual(["ipa", "decoupled_ppo"]);
  });
});

describe("settings", () => {
  test("override the type, and what the type leaves open follows estimator and loss", () => {
    const settings = {
      type: "reinforce",
      advantage: "lite_ppo",
      loss: "cispo",
      clipHigh: 0.3,
      aggregation: "chunk-mean",
    };
    expect(compose(settings)).toMatchObject({
      ...{ normMean: "group", normStd: "batch", clipLow: 1, clipHigh: 0.3, aggregation: "chunk-mean" },
    });
    expect(compose({ type: "grpo", loss: "gspo" }).aggregation).toBe("seq-mean-token-mean");
    expect(compose({ type: "gspo", clipLow: 0.1 }).clipHigh).toBe(0.04);
  });

  test("of before keep their meaning", () => {
    expect(compose({ type: "cispo", normalizeStd: false }).normStd).toBe("none");
    expect(compose({ type: "reinforce", baseline: "batch" })).toMatchObject({ normMean: "batch", normStd: "none" });
    expect(compose({ type: "ipa", failure: "minus-one" }).normMean).toBe("none");
    expect(compose({ type: "reinforce", baseline: "none", advantage: "reinforce" }).normMean).toBe("none");
  });

  test("that nothing reads are not listed", () => {
    expect(componentsRead(AlgorithmSchema.parse({ type: "reinforce" }))).toEqual([
      ...([
        "advantage",
        "normMean",
        "normStd",
        "rewardClip",
        "discount",
        "compact",
        "whiten",
        "advantageClip",
      ] as const),
      ...([
        "loss",
        "proximal",
        "aggregation",
        "normLength",
        "entropy",
        "lengthWeight",
        "difficultyWeight",
        "correction",
      ] as const),
    ]);
  });
});

describe("what does not go together is refused", () => {
  test.each([
    [{ tau: 1 }, 'tau belongs to loss "kimi", and the loss is "ppo"'],
    [
      { loss: "vanilla", ratio: "chunk" },
      'ratio belongs to loss "ppo", "tis", "topr", "cispo", and the loss is "vanilla"',
    ],
    [{ lambda: 0.9 }, 'lambda belongs to advantage "gae", and the advantage is "grpo"'],
    [{ type: "rloo", normMean: "batch" }, 'normMean belongs to advantage "reinforce", "gae", "grpo"'],
    [{ loss: "gspo", advantage: "ipa" }, 'advantage is "ipa", whose turns differ'],
    [{ ratio: "sequence", advantage: "gae" }, 'advantage is "gae", whose turns differ'],
    [{ ratio: "chunk", advantage: "gae" }, 'ratio is "chunk"; one ratio per turn'],
    [{ advantage: "gigpo", normStd: "batch" }, 'normStd cannot be "batch" with advantage "gigpo"'],
    [{ advantage: "gigpo", rewardClip: 1 }, 'rewardClip does nothing for advantage "gigpo"'],
    [{ advantage: "step_reinforce", normMean: "running" }, 'normMean cannot be "running"'],
    [{ aggregation: "seq-mean-token-sum-norm" }, "normLength is missing"],
    [{ normLength: 100 }, "normLength belongs to aggregation seq-mean-token-sum-norm"],
    [{ type: "ipa", proximal: "behaviour" }, 'proximal cannot be "behaviour" with loss "ipa"'],
    [{ type: "decoupled_ppo", proximal: "behaviour" }, 'proximal cannot be "behaviour" with a correction'],
    [{ normalizeStd: false, normStd: "batch" }, "normalizeStd says the same as normStd; set one"],
    [{ normalizeStd: false, advantage: "rloo" }, 'normalizeStd belongs to advantage "grpo"; set normStd'],
    [{ type: "reinforce", baseline: "batch", normMean: "none" }, "baseline says the same as normMean; set one"],
    [{ correction: {} }, "correction has neither a weight nor filters"],
    [{ correction: { weightBound: 2, filters: [{ ratioHigh: 2 }] } }, "correction.weightBound needs a weight"],
    [{ correction: { filters: [{ ratioLow: 2, ratioHigh: 1 }] } }, "correction.filters.0.ratioLow is above ratioHigh"],
  ])("%j", (settings, message) => {
    expect(refusal(settings)).toStartWith(message);
  });
});
