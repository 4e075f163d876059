/** Episodes that begin in an expert's states: real sandboxes, a policy that only knows how to finish. */

import { describe, expect, test } from "bun:test";
import { compactFormat } from "../../src/agent/compact-format.ts";
import { type ResamplingConfig, ResamplingSchema } from "../../src/config/resampling.ts";
import { EventHub } from "../../src/core/events.ts";
import { ScriptedPolicy } from "../../src/policy/scripted.ts";
import { collectGroups } from "../../src/rollout/collect.ts";
import type { EpisodeContext } from "../../src/rollout/episode.ts";
import { Limiter } from "../../src/rollout/limiter.ts";
import { Resampler } from "../../src/rollout/resampling.ts";
import { Scene, tokenizer } from "./support.ts";

const options = { limiter: new Limiter(8), retries: 0 };
const scene = new Scene("cfg");
const { task } = scene;
/** The oracle's commands. */
const commands = scene.solution;

/** An agent that runs `script` and says that it is done. */
function contextOf(script: readonly string[]): EpisodeContext {
  return {
    policy: new ScriptedPolicy(tokenizer, script),
    provider: scene.provider,
    format: compactFormat(tokenizer),
    limits: { maxTurns: 8, maxCommandTokens: 400, maxEpisodeTokens: 4000, maxObservationChars: 64 },
    sampling: { temperature: 1, greedy: false },
    grading: "clean",
    episodeMs: 20_000,
    sandboxes: new Limiter(4),
    hub: new EventHub(),
    signal: new AbortController().signal,
  };
}

const settings = (given: Partial<ResamplingConfig>): ResamplingConfig =>
  ResamplingSchema.parse({ window: 4, episodes: 2, anchors: 8, ...given });

/** One step: four episodes from scratch, then what the resampler makes of them. */
async function step(resampler: Resampler, key: string, script: readonly string[]) {
  const context = contextOf(script);
  const groups = await collectGroups({ episodes: key, noise: key }, [task], 4, context, options);
  return resampler.resample({ episodes: key, noise: key }, [task], groups, context, options);
}

describe("parallelised initialisation", () => {
  test("an agent that can only finish succeeds where the expert has done the rest, and nowhere else", async () => {
    const resampler = new Resampler(settings({}), "seed");
    const { groups, imitations, metrics } = await step(resampler, "p", []);
    expect(groups.map(({ trajectories }) => trajectories[0]?.fork?.anchor)).toEqual(
      Array.from({ length: commands.length }, (_, i) => i + 2),
    );
    const rewards = groups.map(({ trajectories }) => trajectories.map(({ reward }) => reward));
    expect(rewards.at(-1)).toEqual([1, 1]);
    for (const row of rewards.slice(0, -1)) expect(row).toEqual([0, 0]);
    // What the agent cannot write is the expert's last command: one crucial chunk, and imitation up to it.
    expect(metrics["resampling/crucial_chunks"]).toBe(1);
    expect(imitations.map(({ chunks }) => chunks)).toEqual([commands.length]);
  });

  test("forked episodes hold the expert's tokens as context and their own as sampled", async () => {
    const { groups, imitations } = await step(new Resampler(settings({}), "seed"), "t", []);
    const last = groups.at(-1)?.trajectories[0];
    const expert = imitations[0]?.tokens;
    if (last === undefined || expert === undefined) throw new Error("nothing was resampled");
    expect(last.fork).toEqual({ anchor: commands.length + 1, chunks: commands.length + 1, expert: "oracle" });
    expect(last.tokens.ids).toEqual(expert.ids);
    expect([...last.tokens.mask].filter((bit) => bit === 1)).toHaveLength(1);
    expect(last.tokens.turnIds.at(-1)).toBe(commands.length);
    expect(last.episodeId).toBe(`t/0/anchor-${commands.length + 1}/0`);
  });

  test("tasks that are solved from scratch are left alone", async () => {
    const { groups, metrics } = await step(new Resampler(settings({}), "seed"), "s", commands);
    expect(groups).toEqual([]);
    expect(metrics["resampling/tasks"]).toBe(0);
  });

  test("a success of the group is the expert before the oracle", async () => {
    const resampler = new Resampler(settings({ passAtMost: 1, anchors: 1 }), "seed");
    const { groups } = await step(resampler, "o", commands);
    expect(groups[0]?.trajectories[0]?.fork?.expert).toBe("o/0/0");
  });
});

test("sequential rollback moves from the last chunk to the first the agent cannot write, also across a resumption", async () => {
  const config = settings({ mode: "sequential", window: 2, advanceAt: 1 });
  let resampler = new Resampler(config, "seed");
  const anchors: (number | undefined)[] = [];
  for (let i = 0; i < 3; i++) {
    const { groups, imitations } = await step(resampler, `q${i}`, []);
    anchors.push(groups[0]?.trajectories[0]?.fork?.anchor);
    expect(imitations.map(({ chunks }) => chunks)).toEqual(i === 0 ? [] : [commands.length]);
    resampler = new Resampler(config, "seed", JSON.parse(JSON.stringify(resampler.state)));
  }
  expect(anchors).toEqual([commands.length + 1, commands.length, commands.length]);
});
