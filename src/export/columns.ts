/** The columns of exported trajectories: one row per episode. */

import type { EpisodeDetail } from "../store/records.ts";

export interface Column {
  readonly name: string;
  readonly type: "STRING" | "INT32" | "INT64" | "DOUBLE" | "TIMESTAMP" | "JSON" | "INT32[]" | "FLOAT[]";
  readonly nullable?: true;
  readonly meaning: string;
  readonly read: (episode: EpisodeDetail) => unknown;
}

export const COLUMNS: readonly Column[] = [
  { name: "episode_id", type: "STRING", meaning: "unique in the store", read: (e) => e.id },
  { name: "run_id", type: "STRING", meaning: "the run", read: (e) => e.runId },
  { name: "group_id", type: "STRING", meaning: "episodes of one task and seed share it", read: (e) => e.groupId },
  { name: "member", type: "INT32", meaning: "index within the group", read: (e) => e.member },
  { name: "task_id", type: "STRING", meaning: "suite/family/split/seed", read: (e) => e.taskId },
  { name: "family", type: "STRING", meaning: "task family", read: (e) => e.family },
  { name: "split", type: "STRING", meaning: "train, dev or heldout", read: (e) => e.split },
  { name: "seed", type: "INT64", meaning: "seed of the instance", read: (e) => e.seed },
  {
    name: "instruction",
    type: "STRING",
    nullable: true,
    meaning: "what the agent was asked; null where it was not recorded",
    read: (e) => e.instruction,
  },
  { name: "step", type: "INT32", meaning: "training step; 0 is before the first update", read: (e) => e.step },
  { name: "purpose", type: "STRING", meaning: "train, eval (sampled) or greedy", read: (e) => e.purpose },
  {
    name: "fork_anchor",
    type: "INT32",
    nullable: true,
    meaning: "chunk of an expert, from 1, before which the episode began; null = at the task's start",
    read: (e) => e.forkAnchor,
  },
  {
    name: "fork_expert",
    type: "STRING",
    nullable: true,
    meaning: "episode id of that expert, or oracle",
    read: (e) => e.forkExpert,
  },
  { name: "reward", type: "DOUBLE", meaning: "from the task's verifier; 1 is solved", read: (e) => e.reward },
  { name: "stop_reason", type: "STRING", meaning: "why the episode ended", read: (e) => e.stopReason },
  { name: "error", type: "STRING", nullable: true, meaning: "what failed, where something did", read: (e) => e.error },
  {
    name: "alerts",
    type: "JSON",
    meaning: "what the sandbox guards raised: list of {kind, at, turn, evidence, action}; an empty one is the rule",
    read: (e) => e.alerts,
  },
  { name: "isolation", type: "STRING", meaning: "isolation level of the sandbox", read: (e) => e.isolation },
  { name: "grading", type: "STRING", meaning: "clean, stopped or live", read: (e) => e.grading },
  { name: "started_at", type: "TIMESTAMP", meaning: "start of the episode, UTC", read: (e) => new Date(e.startedAt) },
  {
    name: "reset_ms",
    type: "DOUBLE",
    meaning: "milliseconds until the sandbox was ready",
    read: (e) => e.phases.reset,
  },
  { name: "generate_ms", type: "DOUBLE", meaning: "milliseconds of generation", read: (e) => e.phases.generate },
  { name: "tool_ms", type: "DOUBLE", meaning: "milliseconds of commands", read: (e) => e.phases.tool },
  { name: "grade_ms", type: "DOUBLE", meaning: "milliseconds of grading", read: (e) => e.phases.grade },
  { name: "num_turns", type: "INT32", meaning: "number of turns", read: (e) => e.turns.length },
  {
    name: "turns",
    type: "JSON",
    meaning: "list of {index, command, observation, exitCode, startedMs, generatedMs, observedMs}",
    read: (e) => e.turns,
  },
  { name: "num_tokens", type: "INT32", meaning: "length of the six lists below", read: (e) => e.tokens.ids.length },
  {
    name: "token_ids",
    type: "INT32[]",
    meaning: "the sequence as it was sampled and shown",
    read: (e) => e.tokens.ids,
  },
  {
    name: "mask",
    type: "INT32[]",
    meaning: "1 where the policy sampled the token, 0 for prompt and observation",
    read: (e) => e.tokens.mask,
  },
  {
    name: "logprobs",
    type: "FLOAT[]",
    meaning: "natural log-probability under the distribution sampled from; 0 where mask is 0",
    read: (e) => e.tokens.logprobs,
  },
  {
    name: "logprobs_t1",
    type: "FLOAT[]",
    meaning: "the same at temperature 1 without truncation",
    read: (e) => e.tokens.logprobsT1,
  },
  {
    name: "weight_versions",
    type: "INT32[]",
    meaning: "weight version that sampled the token",
    read: (e) => e.tokens.versions,
  },
  {
    name: "kv_oldest",
    type: "INT32[]",
    meaning: "oldest weight version of any cache entry the token attended to",
    read: (e) => e.tokens.kvOldest,
  },
  {
    name: "turn_ids",
    type: "INT32[]",
    meaning: "turn of the token; -1 where mask is 0",
    read: (e) => e.tokens.turnIds,
  },
];

/** The glossary that goes with the files, as Markdown. */
export function columnGlossary(): string {
  const rows = COLUMNS.map(({ name, type, nullable, meaning }) => {
    const shown = nullable ? `${type}, may be null` : type;
    return `| \`${name}\` | ${shown} | ${meaning} |`;
  });
  return [
    "# Columns of trajectories.parquet and trajectories.jsonl",
    "",
    "One row per episode, in the order they were stored. In the JSON lines, times are ISO 8601.",
    "",
    "| column | type | meaning |",
    "|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}
