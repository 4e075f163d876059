/** Episodes of an earlier run as training data. Their tokens are taken as they were sampled; nothing is tokenised again. */

import { statSync } from "node:fs";
import type { TranscriptFormat } from "../agent/format.ts";
import { AleError } from "../core/errors.ts";
import type { StopReason, TokenRecord } from "../core/types.ts";
import type { EpisodeDetail } from "../store/records.ts";
import type { Store } from "../store/store.ts";
import { type PreferencePairOf, pairUp } from "../trainer/preference.ts";
import { maskTurns, type SupervisedRecord, type TurnMaskSettings } from "../trainer/turn-masks.ts";

/** Which episodes are wanted. */
export interface StoredEpisodes {
  /** Id of the run, the unique beginning of one, or its directory. */
  readonly run: string;
  /** At most this many, or pairs of them, of each group; all when omitted. */
  readonly perGroup?: number | undefined;
}

/** Ends of an episode that say nothing about the policy. */
const NOT_ITS_OWN: readonly StopReason[] = ["sandbox_error", "engine_error", "grader_error", "cancelled"];

const isItsOwn = ({ stopReason }: EpisodeDetail): boolean => !NOT_ITS_OWN.includes(stopReason);
const isSolved = ({ reward }: EpisodeDetail): boolean => reward >= 1;

/**
 * Solved training episodes, the shortest of each group first: rejection sampling, verified by the tasks' own tests.
 * @throws AleError("config") when there are none, or when they were written for another tokenizer or prompt than `format`'s.
 */
export async function readSolvedEpisodes(
  store: Store,
  format: TranscriptFormat,
  { run, perGroup, masks }: StoredEpisodes & { readonly masks: TurnMaskSettings },
): Promise<SupervisedRecord[]> {
  const groups = await readGroups(store, format, run);
  const records = groups.flatMap((group) =>
    shortestFirst(group.filter(isSolved))
      .slice(0, perGroup)
      .map(({ tokens, turns }) => maskTurns(tokens, turns, masks)),
  );
  if (records.length > 0) return records;
  throw new AleError("config", `sft.stages: run ${run} has no solved training episode`, {
    hint: "name a run that solved something: ale runs ls",
  });
}

/**
 * Training episodes however they ended, the shortest of each group first; what a teacher is to judge.
 * @throws AleError("config") as `readSolvedEpisodes`.
 */
export async function readAllEpisodes(
  store: Store,
  format: TranscriptFormat,
  { run, perGroup, masks }: StoredEpisodes & { readonly masks: TurnMaskSettings },
): Promise<SupervisedRecord[]> {
  const groups = await readGroups(store, format, run);
  const own = groups.flatMap((group) => shortestFirst(group.filter(isItsOwn)).slice(0, perGroup));
  if (own.length > 0) return own.map(({ tokens, turns }) => maskTurns(tokens, turns, masks));
  throw new AleError("config", `sft.stages: run ${run} has no training episode`, { hint: "ale runs ls" });
}

/**
 * Of each group, its solved episodes beside its failures, the shortest of both first.
 * @throws AleError("config") as `readSolvedEpisodes`, and when no group has both.
 */
export async function readPreferencePairs(
  store: Store,
  format: TranscriptFormat,
  { run, perGroup }: StoredEpisodes,
): Promise<PreferencePairOf<TokenRecord>[]> {
  const groups = await readGroups(store, format, run);
  const pairs = groups.flatMap((group) => {
    return pairUp(shortestFirst(group.filter(isItsOwn)), isSolved, perGroup);
  });
  if (pairs.length > 0)
    return pairs.map(({ chosen, rejected }) => ({ chosen: chosen.tokens, rejected: rejected.tokens }));
  throw new AleError("config", `sft.stages: no group of run ${run} has a solved episode beside a failed one`, {
    hint: "name a run with several episodes per task (rollout.groupSize) that solved some of them",
  });
}

/** Training episodes that the policy wrote something in, by group, in the order they were collected. */
async function readGroups(store: Store, format: TranscriptFormat, name: string): Promise<EpisodeDetail[][]> {
  const isFolder = statSync(name, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const run = (isFolder ? await store.findRunByFolder(name) : undefined) ?? (await store.getRun(name));
  const groups = new Map<string, EpisodeDetail[]>();
  for await (const episode of store.episodes({ runId: run.id, purpose: "train" })) {
    // What the guards raised an alert for is nobody's example.
    if (!episode.tokens.mask.includes(1) || episode.alerts.length > 0) continue;
    assertReadable(episode, format);
    groups.set(episode.groupId, [...(groups.get(episode.groupId) ?? []), episode]);
  }
  return [...groups.values()];
}

function shortestFirst(episodes: readonly EpisodeDetail[]): EpisodeDetail[] {
  return episodes.toSorted((a, b) => a.tokens.ids.length - b.tokens.ids.length || a.member - b.member);
}

/** Tokens mean the same to the policy only where the prompt it would be given is the one they begin with. */
function assertReadable({ id, instruction, tokens }: EpisodeDetail, format: TranscriptFormat): void {
  const prompt = format.encodePrompt(instruction ?? "");
  if (prompt.every((token, t) => tokens.ids[t] === token)) return;
  throw new AleError("config", `sft.stages: episode ${id} was written for another tokenizer or prompt`, {
    hint: "set model.path to the policy that run started from or made, and rollout.systemPrompt as it was",
  });
}
