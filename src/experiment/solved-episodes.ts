/** Solved episodes of an earlier run as training sequences: rejection sampling, verified by the tasks' own tests. */

import { statSync } from "node:fs";
import type { TranscriptFormat } from "../agent/format.ts";
import { AleError } from "../core/errors.ts";
import type { EpisodeDetail } from "../store/records.ts";
import type { Store } from "../store/store.ts";
import { maskTurns, type SupervisedRecord, type TurnMaskSettings } from "../trainer/turn-masks.ts";

export interface SolvedEpisodeOptions {
  /** Id of the run, the unique beginning of one, or its directory. */
  readonly run: string;
  /** The shortest this many of each group; all when omitted. */
  readonly perGroup?: number | undefined;
  readonly masks: TurnMaskSettings;
}

/**
 * The tokens as they were sampled; nothing is tokenised again.
 * @throws AleError("config") when there are none, or when they were written for another tokenizer or prompt than `format`'s.
 */
export async function readSolvedEpisodes(
  store: Store,
  format: TranscriptFormat,
  { run: name, perGroup = Number.POSITIVE_INFINITY, masks }: SolvedEpisodeOptions,
): Promise<SupervisedRecord[]> {
  const isFolder = statSync(name, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const run = (isFolder ? await store.findRunByFolder(name) : undefined) ?? (await store.getRun(name));
  const groups = new Map<string, EpisodeDetail[]>();
  for await (const episode of store.episodes({ runId: run.id, purpose: "train", solved: true })) {
    assertReadable(episode, format);
    groups.set(episode.groupId, [...(groups.get(episode.groupId) ?? []), episode]);
  }
  if (groups.size === 0) {
    throw new AleError("config", `sft.stages: run ${run.id} has no solved training episode`, {
      hint: "name a run that solved something: ale runs ls",
    });
  }
  return [...groups.values()].flatMap((episodes) =>
    episodes
      .toSorted((a, b) => a.tokens.ids.length - b.tokens.ids.length || a.member - b.member)
      .slice(0, perGroup)
      .map(({ tokens, turns }) => maskTurns(tokens, turns, masks)),
  );
}

/** Tokens mean the same to the policy only where the prompt it would be given is the one they begin with. */
function assertReadable({ id, instruction, tokens }: EpisodeDetail, format: TranscriptFormat): void {
  const prompt = format.encodePrompt(instruction ?? "");
  if (prompt.every((token, t) => tokens.ids[t] === token)) return;
  throw new AleError("config", `sft.stages: episode ${id} was written for another tokenizer or prompt`, {
    hint: "set model.path to the policy that run started from or made, and rollout.systemPrompt as it was",
  });
}
