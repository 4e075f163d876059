/**
 * Which turns of an episode supervised training learns from (arXiv 2512.24873, equations 1 and 2): `m_k = 1` for turns that
 * raised no error (*error-masked*) and belong to the task (*task-aware*). The paper leaves both to heuristics; ours:
 *
 * - an error is a command that ended with another status than 0, or did not end by itself;
 * - a turn does not belong to the task when it has no command, or when an earlier one ran the same command and saw the same.
 *
 * A turn that says that the episode is done raises no error and belongs to the task.
 */

import { denseTurnIds } from "../algorithms/chunks.ts";
import { type SupervisedTurn, supervisedMask } from "../algorithms/sft-loss.ts";
import type { TokenRecord, Turn } from "../core/types.ts";

/** What is known of a turn; `index` is the turn's number in the token record. */
export type TurnOutcome = Pick<Turn, "index" | "command" | "observation" | "exitCode">;

export interface TurnMaskSettings {
  readonly maskErrors: boolean;
  readonly maskIrrelevant: boolean;
}

/** A sequence to imitate. */
export interface SupervisedRecord {
  readonly tokens: TokenRecord;
  /** 1 on what is learned from: the policy's tokens of the turns that are kept. */
  readonly trained_T: Uint8Array;
}

/** One per turn that wrote something, in order. */
export function judgeTurns(
  { turnIds }: Pick<TokenRecord, "turnIds">,
  outcomes: readonly TurnOutcome[],
): SupervisedTurn[] {
  const byIndex = new Map(outcomes.map((outcome) => [outcome.index, outcome]));
  const seen = new Set<string>();
  return spansOf(turnIds).map(({ turn, begin, end }) => {
    const outcome = byIndex.get(turn);
    if (outcome === undefined) return { begin, end, failed: false, relevant: true };
    const { command, observation, exitCode } = outcome;
    const key = JSON.stringify([command, observation]);
    const relevant = command !== "" && !seen.has(key);
    seen.add(key);
    return { begin, end, failed: command !== "" && exitCode !== 0, relevant };
  });
}

/** The sequence with the mask that `settings` ask for. */
export function maskTurns(
  tokens: TokenRecord,
  outcomes: readonly TurnOutcome[],
  { maskErrors, maskIrrelevant }: TurnMaskSettings,
): SupervisedRecord {
  const turns = judgeTurns(tokens, outcomes).map(({ failed, relevant, ...span }) => ({
    ...{ ...span, failed: maskErrors && failed, relevant: !maskIrrelevant || relevant },
  }));
  return { tokens, trained_T: supervisedMask(tokens.ids.length, turns) };
}

function spansOf(turnIds: Int32Array): { readonly turn: number; readonly begin: number; readonly end: number }[] {
  const dense = denseTurnIds(turnIds);
  const spans: { turn: number; begin: number; end: number }[] = [];
  dense.forEach((id, t) => {
    if (id < 0) return;
    spans[id] ??= { turn: turnIds[t] as number, begin: t, end: t };
    (spans[id] as { end: number }).end = t + 1;
  });
  return spans;
}
