/** In which state of the environment each turn of an episode began, as a key that equal states share. */

import { createHash } from "node:crypto";

/** What makes two turns begin in the same state: everything before them, or what was shown last. */
export type StateKind = "history" | "observation";

/**
 * One key per chunk, in order. `history` is exact where the environment is deterministic: the same tokens before a turn lead
 * to the same state. `observation` also finds states that were reached in different ways, and mixes up states that look alike.
 * @param turnIds_T dense chunk ids.
 */
export function turnStates(ids_T: Int32Array, turnIds_T: ArrayLike<number>, kind: StateKind): string[] {
  const keys: string[] = [];
  const hash = createHash("sha256");
  let begin = 0;
  for (let t = 0; t < ids_T.length; t++) {
    const turn = turnIds_T[t] as number;
    if (turn < 0 || turn === turnIds_T[t - 1]) continue;
    if (kind === "history") hash.update(bytesOf(ids_T, begin, t));
    keys.push(kind === "history" ? hash.copy().digest("hex") : digest(bytesOf(ids_T, begin, t)));
    begin = kind === "history" ? t : endOf(turnIds_T, t);
  }
  return keys;
}

function bytesOf(ids_T: Int32Array, begin: number, end: number): Uint8Array {
  return new Uint8Array(ids_T.buffer, ids_T.byteOffset + 4 * begin, 4 * (end - begin));
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function endOf(turnIds_T: ArrayLike<number>, begin: number): number {
  let end = begin + 1;
  while (end < turnIds_T.length && turnIds_T[end] === turnIds_T[begin]) end++;
  return end;
}
