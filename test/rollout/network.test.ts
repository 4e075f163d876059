/** Episodes whose tasks ask for a network: by phase, and in the audit log. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { compactFormat } from "../../src/agent/compact-format.ts";
import { EventHub } from "../../src/core/events.ts";
import type { GradingMode, NetworkSpec, Task, Trajectory } from "../../src/core/types.ts";
import { ScriptedPolicy } from "../../src/policy/scripted.ts";
import { runEpisode } from "../../src/rollout/episode.ts";
import { Limiter } from "../../src/rollout/limiter.ts";
import { openStore } from "../../src/store/store.ts";
import { allowing, openSink, type Sink } from "../sandbox/network-support.ts";
import { ENVIRONMENT, file, openProvider, type TestProvider } from "../sandbox/support.ts";
import { tokenizer } from "./support.ts";

const LISTED = "127.0.0.7";
let provider: TestProvider;
let agents: Sink;
let tests: Sink;
beforeAll(async () => {
  const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  [agents, tests] = [await openSink(LISTED, answer), await openSink(LISTED, answer)];
  provider = await openProvider();
});
afterAll(async () => {
  await provider?.close();
  await agents[Symbol.asyncDispose]();
  await tests[Symbol.asyncDispose]();
});

/** A command that prints the status of an answer, or why there is none. */
const ask = (port: number) =>
  `(exec 3<>/dev/tcp/127.0.0.1/3128 && printf 'GET http://${LISTED}:${port}/ HTTP/1.1\\r\\nHost: ${LISTED}:${port}\\r\\n\\r\\n' >&3 && head -n1 <&3) 2>&1 | grep -o '200\\|403\\|refused' | head -n1`;

function taskWith(network: NetworkSpec | undefined, verifierNetwork: NetworkSpec | undefined): Task {
  const script = `[ "$(${ask(tests.port)})" = 200 ]; mine=$?; [ "$(${ask(agents.port)})" = 200 ]; theirs=$?\n`;
  return {
    ...{ id: "test/net", suite: "test", family: "net", split: "train", seed: 1, instruction: "" },
    environment: { ...ENVIRONMENT, ...(network && { network }) },
    ...(verifierNetwork && { verifierNetwork }),
    files: [],
    // 1 where only the tests' own host is reached, 10 with the agent's, 100 where neither is
    tests: [
      file(
        "test.sh",
        `${script}case $mine$theirs in 01) r=1;; 00) r=10;; 11) r=100;; *) r=0;; esac; echo $r > /logs/verifier/reward.txt\n`,
      ),
    ],
    solution: [],
    demonstrations: [],
    timeouts: { command: 10, agent: 30, verifier: 20 },
  };
}

function play(task: Task, commands: readonly string[], grading: GradingMode): Promise<Trajectory> {
  return runEpisode(
    { episodeId: "e", groupId: "g", member: 0, task, noiseKey: "k" },
    {
      policy: new ScriptedPolicy(tokenizer, commands),
      provider,
      format: compactFormat(tokenizer),
      limits: {
        maxTurns: 6,
        maxCommandTokens: 600,
        maxEpisodeTokens: 4000,
        maxObservationChars: 64,
        commandSeconds: 10,
      },
      sampling: { temperature: 1, greedy: false },
      grading,
      episodeMs: 30_000,
      sandboxes: new Limiter(4),
      hub: new EventHub(),
      signal: new AbortController().signal,
    },
  );
}

test.each(["clean", "stopped", "live"] as const)(
  "%s: the tests reach what they may, not what the agent might",
  async (mode) => {
    const task = taskWith(allowing(`${LISTED}:${agents.port}`), allowing(`${LISTED}:${tests.port}`));
    const trajectory = await play(task, [ask(agents.port), ask(tests.port)], mode);
    expect(trajectory.error).toBeUndefined();
    expect(trajectory.turns.map(({ observation }) => observation.slice(0, 3))).toEqual(["200", "403"]);
    expect(trajectory.reward).toBe(1);
    const closed = await play(taskWith(allowing(`${LISTED}:${agents.port}`), undefined), [ask(agents.port)], mode);
    expect([closed.turns[0]?.observation.slice(0, 3), closed.reward]).toEqual(["200", 100]);
  },
);

test("a task that asks for nothing gets nothing", async () => {
  const trajectory = await play(taskWith(undefined, undefined), [ask(agents.port)], "clean");
  expect([trajectory.turns[0]?.observation.slice(0, 3), trajectory.reward]).toEqual(["ref", 100]);
});

test("every connection and every command is in the audit log, with its episode and turn", async () => {
  const task = taskWith(allowing(`${LISTED}:${agents.port}`), allowing(`${LISTED}:${tests.port}`));
  const trajectory = await play(
    task,
    ["true", ask(agents.port), ask(tests.port), "getent hosts unlisted.test; true"],
    "clean",
  );
  const store = await openStore(join(provider.stateDir, "audit.db"));
  const run = await store.createRun({
    ...{ name: "audit", algorithm: "grpo", seed: 1, configToml: "", configHash: "h", outDir: "/runs/audit" },
    ...{ isolation: trajectory.isolation, steps: 1, aleVersion: "0" },
  });
  await store.writeEpisodes(run, 1, "train", [{ ...trajectory, episodeId: `${run}/1`, groupId: `${run}/g` }]);
  const { entries } = await store.readAudit({ episode: `${run}/1` }, { limit: 100 });
  await store.close();
  const told = entries.map((entry) => [
    entry.phase,
    entry.turn,
    entry.kind,
    entry.kind === "exec" ? entry.exitCode : `${entry.port} ${entry.verdict}`,
  ]);
  const queries = entries.filter((entry) => entry.kind === "dns");
  expect(queries.length).toBeGreaterThan(0);
  for (const query of queries)
    expect(query).toMatchObject({ phase: "agent", turn: 3, host: "unlisted.test", address: null, verdict: "denied" });
  expect(told.filter(([phase, , kind]) => phase === "agent" && kind !== "dns")).toEqual([
    ["agent", 0, "exec", 0],
    ["agent", 1, "exec", 0],
    ["agent", 1, "proxy", `${agents.port} allowed`],
    ["agent", 2, "exec", 0],
    ["agent", 2, "proxy", `${tests.port} denied`],
    ["agent", 3, "exec", 0],
  ]);
  expect(told.filter(([phase]) => phase === "verifier")).toEqual([
    ["verifier", null, "exec", 0],
    ["verifier", null, "proxy", `${tests.port} allowed`],
    ["verifier", null, "proxy", `${agents.port} denied`],
  ]);
  const allowed = entries.find((entry) => entry.kind === "proxy" && entry.verdict === "allowed");
  expect(allowed).toMatchObject({ host: LISTED, address: LISTED, bytesOut: expect.any(Number) });
});
