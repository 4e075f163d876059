/**
 * The highest throughput that any schedule could have: no order of work and no placement gets more episodes per second out of
 * these devices, places and latencies. It is the lesser of two, each of which follows from what no schedule can avoid:
 *
 * - **work and places.** A decode step of b rows takes base + perRow · b, so a token costs a device base / b + perRow and
 *   keeps its episode base + perRow · b. Whatever the mean b of all steps is (the stay is convex in it, so an uneven b makes it
 *   longer), λ episodes per second need λ · device(b) ≤ devices (conservation of work: generation, training, new weights) and
 *   λ · stay(b) ≤ concurrency (Little's law: reset, commands with their latency, its own prefill and decode, grading). The
 *   best b from 1 to `slots` gives the bound. Means are those of the law: a schedule that drops slow groups for their age
 *   trains on quicker ones, and may pass the second where places are scarce.
 * - **the gate.** Groups made when training came to step s are trained on at step s + ⌈ratio⌉ at the latest: in ⌈ratio⌉ + 1 steps a
 *   group is played and an update made. With ratio 0 it is the slowest of the step's groups; with a lead, slow groups may be
 *   dropped and replaced, so only the quickest is sure. Groups count as if each had all it needs at once.
 */

import { Rng } from "../../src/core/rng.ts";
import { latencyOf } from "../../src/rollout/latency.ts";
import { type EpisodeShape, type Setup, tokensOf } from "./setup.ts";
import { updateMs } from "./update.ts";

export interface Bound {
  /** The least of those below. */
  readonly episodesPerSecond: number;
  readonly workAndPlaces: number;
  readonly gate: number;
  /** Mean rows of a decode step at which `workAndPlaces` is reached. */
  readonly rows: number;
}

/** The bound for the episodes that a run with this seed makes for steps `first` to `last`. */
export function throughputBound(setup: Setup, [first, last]: readonly [number, number]): Bound {
  const drawn = drawSteps(setup, first, last);
  const { rows, perSecond } = workAndPlaces(setup, drawn.flat(2));
  const gate = gateBound(setup, drawn);
  return { episodesPerSecond: Math.min(perSecond, gate), workAndPlaces: perSecond, gate, rows };
}

/** What an episode is made of, whatever the schedule. */
interface Drawn {
  readonly answers: number;
  readonly sampled: number;
  /** Tokens of context, each computed once. */
  readonly context: number;
  readonly tokens: number;
  /** Reset, commands with their latency, grading. */
  readonly offDevice: number;
}

/** Episodes by step and group. */
function drawSteps({ workload, costs }: Setup, first: number, last: number): Drawn[][][] {
  const { seed, groups, groupSize, shapes, law, episodeMs = Number.POSITIVE_INFINITY } = workload;
  const draw = (group: string, member: number): Drawn => {
    const shape: EpisodeShape = new Rng(`${group}/${member}/shape`).pick(shapes);
    const waits = shape.map(({ command }, turn) => {
      if (!command) return 0;
      return costs.tool + (law === undefined ? 0 : latencyOf(law, { group, member, members: groupSize }, turn));
    });
    const sum = (of: (index: number) => number) => shape.reduce((total, _, i) => total + of(i), 0);
    return {
      answers: shape.length,
      sampled: sum((i) => shape[i]?.answer ?? 0),
      context: sum((i) => shape[i]?.context ?? 0),
      tokens: tokensOf(shape),
      offDevice:
        costs.reset +
        Math.min(
          sum((i) => waits[i] ?? 0),
          episodeMs,
        ) +
        costs.grade,
    };
  };
  return Array.from({ length: last - first + 1 }, (_, i) =>
    Array.from({ length: groups }, (_, g) =>
      Array.from({ length: groupSize }, (_, member) => draw(`${seed}/train/${first + i}/${g}`, member)),
    ),
  );
}

function workAndPlaces({ workload, costs, schedule }: Setup, episodes: readonly Drawn[]) {
  const mean = (of: (episode: Drawn) => number) => episodes.reduce((sum, one) => sum + of(one), 0) / episodes.length;
  // for each episode that is trained on, as many are played as the filter takes
  const played = (of: (episode: Drawn) => number) => mean(of) / workload.acceptedShare;
  const [sampled, context] = [played((one) => one.sampled), played((one) => one.context)];
  const offDevice = played((one) => one.offDevice);
  const perStep = workload.groups * workload.groupSize;
  const trainedTokens = workload.trainedShare * mean((one) => one.tokens) * perStep;
  const update = updateMs({ tokens: trainedTokens, minibatches: workload.minibatches }, costs);
  const shared = (update + costs.sync * schedule.devices) / perStep;
  const prefill = costs.prefill.base * played((one) => one.answers) + costs.prefill.perToken * context;
  const { base, perRow } = costs.decode;
  let best = { rows: 1, perSecond: 0 };
  for (let rows = 1; rows <= costs.slots; rows++) {
    const device = sampled * (base / rows + perRow) + prefill + shared;
    const stay = offDevice + prefill + sampled * (base + perRow * rows);
    const perSecond = 1000 * Math.min(schedule.devices / device, workload.concurrency / stay);
    if (perSecond > best.perSecond) best = { rows, perSecond };
  }
  return best;
}

function gateBound({ workload, costs, schedule }: Setup, drawn: readonly (readonly (readonly Drawn[])[])[]): number {
  const { groups, groupSize, trainedShare, minibatches } = workload;
  const { base, perRow } = costs.decode;
  const alone = ({ answers, sampled, context, offDevice }: Drawn) =>
    offDevice + costs.prefill.base * answers + costs.prefill.perToken * context + sampled * (base + perRow);
  const times = drawn.map((step) => step.map((group) => Math.max(...group.map(alone))));
  const played =
    schedule.ratio === 0
      ? times.reduce((sum, step) => sum + Math.max(...step), 0) / times.length
      : Math.min(...times.flat());
  const tokens = (trainedShare * drawn.flat(2).reduce((sum, one) => sum + one.tokens, 0)) / drawn.length;
  const update = updateMs({ tokens, minibatches }, costs) / schedule.devices + costs.sync + costs.step;
  return (1000 * groups * groupSize * (Math.ceil(schedule.ratio) + 1)) / (played + update);
}
