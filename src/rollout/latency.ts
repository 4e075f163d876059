/**
 * Simulated latency of environments: what a slow build or a remote service would take before a command answers. A turn's
 * latency is drawn from the law, independently of all other turns; a *straggler* is an episode, all of whose turns take
 * `factor` times what they would have taken. Every draw is keyed by group, member and turn, so it depends neither on the
 * order of episodes nor on what else is drawn, and an episode that is started again waits as long as before.
 */

import type { LatencyLaw } from "../config/latency.ts";
import { Rng } from "../core/rng.ts";

/** How late the environments of a run are. */
export interface EnvironmentLatency {
  readonly law: LatencyLaw;
  /** Episodes of a group: of which `stragglersPerGroup` are stragglers; those beyond them, as for redundancy, never are. */
  readonly members: number;
}

/** An episode as the law sees it. */
export interface LatencyKey {
  /** Names the group within the seed, and begins with the seed: the group's key of sampling noise. */
  readonly group: string;
  /** Index in the group. */
  readonly member: number;
  /** As in `EnvironmentLatency`. */
  readonly members: number;
}

/** Uniform numbers that one turn may use. */
const DRAWS_PER_TURN = 2;

/** The latency of an episode by its turns. */
export function turnLatency(
  { law, members }: EnvironmentLatency,
  { noiseKey, member }: { readonly noiseKey: string; readonly member: number },
): (turn: number) => number {
  const group = noiseKey.replace(new RegExp(`/${member}$`), "");
  return (turn) => latencyOf(law, { group, member, members }, turn);
}

/** Milliseconds that the environment takes before the command of turn `turn` (from 0). */
export function latencyOf(law: LatencyLaw, key: LatencyKey, turn: number): number {
  const rng = new Rng(`${key.group}/latency/${key.member}`, turn * DRAWS_PER_TURN);
  return drawTurn(law, rng) * (isStraggler(law, key) ? law.factor : 1);
}

/** Are all turns of this episode slow? */
export function isStraggler(law: LatencyLaw, { group, member, members }: LatencyKey): boolean {
  const { stragglers, stragglersPerGroup } = law;
  if (stragglersPerGroup > 0 && member < members) {
    const order = new Rng(`${group}/stragglers`).shuffle(Array.from({ length: members }, (_, i) => i));
    if (order.indexOf(member) < stragglersPerGroup) return true;
  }
  return stragglers > 0 && new Rng(`${group}/straggler/${member}`).next() < stragglers;
}

function drawTurn(law: LatencyLaw, rng: Rng): number {
  switch (law.type) {
    case "lognormal":
      return law.medianMs * Math.exp(law.sigma * rng.normal());
    case "pareto":
      return law.fromMs * (1 - rng.next()) ** (-1 / law.alpha);
    case "constant":
      return law.ms;
  }
}
