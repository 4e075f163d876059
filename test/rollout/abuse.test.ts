/** Commands that misbehave cost one episode, with a stop reason that says what happened, and leave nothing behind. */

import { expect, test } from "bun:test";
import { compactFormat } from "../../src/agent/compact-format.ts";
import { EventHub } from "../../src/core/events.ts";
import type { StopReason } from "../../src/core/types.ts";
import { ScriptedPolicy } from "../../src/policy/scripted.ts";
import { runEpisode } from "../../src/rollout/episode.ts";
import { Limiter } from "../../src/rollout/limiter.ts";
import { Scene, tokenizer } from "./support.ts";

const scene = new Scene("tree");
const { task } = scene;

function play(commands: readonly string[], limits: { commandSeconds?: number; episodeMs?: number } = {}) {
  return runEpisode(
    { episodeId: "e", groupId: "g", member: 0, task, noiseKey: "k" },
    {
      policy: new ScriptedPolicy(tokenizer, commands),
      provider: scene.provider,
      format: compactFormat(tokenizer),
      limits: {
        maxTurns: 6,
        maxCommandTokens: 400,
        maxEpisodeTokens: 4000,
        maxObservationChars: 64,
        commandSeconds: limits.commandSeconds ?? 3,
      },
      sampling: { temperature: 1, greedy: false },
      grading: "clean",
      episodeMs: limits.episodeMs ?? 20_000,
      sandboxes: new Limiter(4),
      hub: new EventHub(),
      signal: new AbortController().signal,
    },
  );
}

const cases: readonly [string, string, readonly StopReason[]][] = [
  ["floods its output", "yes", ["output_limit"]],
  ["sleeps for ever", "sleep 1000", ["command_timeout"]],
  ["forks without end", ":(){ :|:& };:; sleep 0.5; true | true", ["pids"]],
  ["takes all memory", "tail /dev/zero", ["memory"]],
  ["fills its disk", "head -c 200M /dev/zero > big; true", ["disk"]],
  ["kills its shell", "kill -9 $$", ["shell_died"]],
  ["leaves its shell", "exit 3", ["shell_died"]],
];

for (const [what, command, reasons] of cases) {
  test(`an agent that ${what} ends with ${reasons.join(" or ")}`, async () => {
    const trajectory = await play([command]);
    expect(reasons).toContain(trajectory.stopReason);
    expect(trajectory.reward).toBe(0);
    expect(trajectory.turns[0]?.command).toBe(command);
  }, 30_000);
}

test("an episode that outlives its wall-clock limit ends with timeout", async () => {
  const trajectory = await play(["sleep 1000"], { commandSeconds: 60, episodeMs: 1000 });
  expect(trajectory.stopReason).toBe("timeout");
}, 30_000);

test("after all that an honest solution is still worth 1", async () => {
  const trajectory = await play(scene.solution);
  expect(trajectory.stopReason).toBe("done");
  expect(trajectory.error).toBeUndefined();
  expect(trajectory.reward).toBe(1);
}, 30_000);
