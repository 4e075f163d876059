/** Simulated latency in real sandboxes: a process of the sandbox's that sleeps, part of the tool's time and of nothing else. */

import { expect, test } from "bun:test";
import { compactFormat } from "../../src/agent/compact-format.ts";
import { LatencySchema } from "../../src/config/latency.ts";
import { EventHub } from "../../src/core/events.ts";
import { ScriptedPolicy } from "../../src/policy/scripted.ts";
import { collectGroups } from "../../src/rollout/collect.ts";
import { latencyOf } from "../../src/rollout/latency.ts";
import { Limiter } from "../../src/rollout/limiter.ts";
import { Scene, tokenizer } from "./support.ts";

const scene = new Scene("tree");
const { task } = scene;

interface Settings {
  readonly latency?: Readonly<Record<string, unknown>>;
  readonly members?: number;
  readonly commandSeconds?: number;
  readonly episodeMs?: number;
}

const KEY = { episodes: "run/train/1", noise: "1/train/1" };

async function play(commands: readonly string[], settings: Settings) {
  const { latency, members = 1, commandSeconds = 3, episodeMs = 20_000 } = settings;
  const limits = {
    maxTurns: 6,
    maxCommandTokens: 400,
    maxEpisodeTokens: 4000,
    maxObservationChars: 64,
    commandSeconds,
  };
  const [group] = await collectGroups(
    KEY,
    [task],
    members,
    {
      policy: new ScriptedPolicy(tokenizer, commands),
      provider: scene.provider,
      format: compactFormat(tokenizer),
      limits,
      sampling: { temperature: 1, greedy: false },
      grading: "clean",
      episodeMs,
      sandboxes: new Limiter(4),
      ...(latency && { latency: { law: LatencySchema.parse(latency), members } }),
      hub: new EventHub(),
      signal: new AbortController().signal,
    },
    { limiter: new Limiter(16), retries: 0 },
  );
  return group?.trajectories ?? [];
}

test("sleeps in the sandbox, is no part of the transcript and none of the command's time", async () => {
  const watch = "( (sleep 0.2; cat /proc/[0-9]*/cmdline > /tmp/seen) > /dev/null 2>&1 & )";
  const commands = [watch, "tr '\\0' ' ' < /tmp/seen | grep -o 'sleep 0.500000'"];
  const latency = { type: "constant", ms: 500 };
  const [late] = await play(commands, { latency, commandSeconds: 0.4 });
  expect(late?.stopReason).toBe("done");
  expect(late?.turns.map(({ observation }) => observation)).toEqual(["", "sleep 0.500000"]);
  const tools = late?.spans?.filter(({ phase }) => phase === "tool") ?? [];
  expect(tools).toHaveLength(2);
  for (const { begin, end } of tools) expect(end - begin).toBeGreaterThanOrEqual(500);

  const script = ["echo one > a", "cat a"];
  const [[slow], [quick]] = [await play(script, { latency }), await play(script, {})];
  expect(slow?.tokens).toEqual(quick?.tokens as never);
  expect(quick?.phases.tool).toBeLessThan(500);
}, 30_000);

test("each episode of a group waits as long as the law says for its key", async () => {
  const table = { type: "lognormal", medianMs: 60, sigma: 0.5, stragglersPerGroup: 1, factor: 8 };
  const members = 6;
  const played = await play(["true", "true"], { latency: table, members });
  const law = LatencySchema.parse(table);
  for (const { member, phases } of played) {
    const key = { group: `${KEY.noise}/0`, member, members };
    expect(phases.tool).toBeGreaterThanOrEqual(latencyOf(law, key, 0) + latencyOf(law, key, 1));
  }
}, 30_000);

test("ends with the episode", async () => {
  const [late] = await play(["true"], { latency: { type: "constant", ms: 600_000 }, episodeMs: 700 });
  expect([late?.stopReason, late?.turns]).toEqual(["timeout", []]);
  expect(late?.phases.tool).toBeLessThan(10_000);
}, 30_000);
