import { expect, test } from "bun:test";
import { sampleTrajectory } from "../../test/sample-run.ts";
import { otherTimeMetrics, rolloutMetrics, timeMetrics } from "./metrics.ts";

test("a batch's lengths, turns and rewards have their extremes, and episodes cut off by a limit their share", () => {
  const sample = (member: number, turns: number) =>
    sampleTrajectory({
      ...{ id: `g/${member}`, group: "g", member, family: "f", split: "train", seed: 1, solved: member === 0 },
      ...{ version: 0, turns, tokensPerTurn: 10 },
    });
  // A prompt of 12 tokens, then by turns ten that were sampled and ten that were shown.
  const trajectories = [sample(0, 1), sample(1, 3), { ...sample(2, 2), stopReason: "length" as const }].map((one, i) =>
    i === 1 ? { ...one, stopReason: "turns" as const } : one,
  );
  const groups = [{ groupId: "g", taskId: "t", trajectories }];
  expect(rolloutMetrics(groups)).toMatchObject({
    ...{ "critic/rewards/mean": 1 / 3, "critic/rewards/max": 1, "critic/rewards/min": 0 },
    ...{ "response_length/mean": 20, "response_length/max": 30, "response_length/min": 10 },
    ...{ "prompt_length/mean": 12, "prompt_length/max": 12, "num_turns/max": 3, "num_turns/min": 1 },
    ...{ "response_length/clip_ratio": 1 / 3, "stop/length": 1 / 3 },
    ...{ "completions/mean_terminated_length": 20, "completions/max_terminated_length": 30 },
  });
  // 60 of them are sampled.
  const tokens = trajectories.reduce((sum, one) => sum + one.tokens.ids.length, 0);
  const times = { gen: 3, update: 1, step: 4 };
  expect(timeMetrics(groups, times)).toMatchObject({
    ...{ "perf/total_num_tokens": tokens, "perf/actor_train_tok_per_s": tokens, "perf/wait_time_ratio": 0.75 },
  });
  expect(otherTimeMetrics(groups, times)).toEqual({
    ...{ "timing_per_token_ms/gen": 50, "timing_per_token_ms/update_actor": 1000 / tokens },
    ...{ "timing_per_token_ms/step": 4000 / tokens, step_time: 4, "time/wait_for_batch": 3, "system/tps": tokens / 4 },
  });
});
