import { describe, expect, test } from "bun:test";
import { Rng } from "../core/rng.ts";
import { GroupQueues } from "./group-queues.ts";
import type { Batch, BatchPolicy, GroupQueueOptions } from "./slots.ts";

const POLICIES: readonly BatchPolicy[] = ["greedy", "rounds"];

/**
 * Plays `steps` training steps with environments that take random times, fail and give up; returns the batches. Throws when
 * nobody can make progress any more.
 */
class Play {
  readonly batches: Batch<number>[] = [];
  #queues: GroupQueues<number>;
  readonly #options: GroupQueueOptions<number>;
  readonly #rng: Rng;
  readonly #working = new Set<number>();
  readonly #idle: Set<number>;
  #step = 0;

  constructor(options: GroupQueueOptions<number>, seed: string) {
    this.#options = options;
    this.#queues = new GroupQueues(options);
    this.#rng = new Rng(seed);
    this.#idle = new Set(Array.from({ length: options.groups * options.environmentsPerGroup }, (_, i) => i));
  }

  run(steps: number, batchSize: number): readonly Batch<number>[] {
    this.#apply(this.#queues.advance(0));
    let batch = this.#queues.takeBatch(batchSize, 0);
    while (this.batches.length < steps) {
      if (batch !== undefined) this.batches.push(batch);
      const waiting = batch === undefined && this.batches.length === this.#step;
      batch = undefined;
      // Training takes as long as it takes: environments go on in the meantime.
      if (waiting || this.#rng.next() < 0.7) this.#move(waiting);
      else if (this.batches.length > this.#step) batch = this.#train(batchSize);
      this.#checkBound();
    }
    return this.batches;
  }

  #train(batchSize: number): Batch<number> | undefined {
    if (this.#rng.next() < 0.2) this.#restart();
    this.#step++;
    this.#apply(this.#queues.advance(this.#step));
    return this.#queues.takeBatch(batchSize, this.#step);
  }

  /** The process ends and another goes on from what was written down; environments begin anew. */
  #restart(): void {
    const state = JSON.parse(JSON.stringify(this.#queues.state()));
    this.#queues = GroupQueues.restore(this.#options, state);
    expect(this.#queues.state()).toEqual(state);
    this.#working.clear();
    this.#idle.clear();
    const { groups, environmentsPerGroup } = this.#options;
    for (let environment = 0; environment < groups * environmentsPerGroup; environment++) {
      if (this.#queues.request(environment) !== undefined) this.#working.add(environment);
    }
  }

  /** One environment asks, finishes, fails or stops waiting. */
  #move(isNeeded: boolean): void {
    const idle = [...this.#idle];
    const working = [...this.#working];
    if (working.length === 0 && idle.length === 0 && isNeeded) throw new Error(`deadlock in step ${this.#step}`);
    if (idle.length > 0 && (working.length === 0 || this.#rng.next() < 0.5)) {
      const environment = idle[this.#rng.int(0, idle.length - 1)] as number;
      this.#idle.delete(environment);
      if (this.#queues.request(environment) !== undefined) this.#working.add(environment);
      return;
    }
    if (working.length === 0) return;
    const environment = working[this.#rng.int(0, working.length - 1)] as number;
    this.#working.delete(environment);
    this.#idle.add(environment);
    if (this.#rng.next() < 0.15) this.#apply(this.#queues.release(environment));
    else this.#apply(this.#queues.put(environment, this.#rng.int(0, 1)));
  }

  #apply({ served, batch }: { readonly served: readonly { environment: number }[]; readonly batch?: Batch<number> }) {
    for (const { environment } of served) this.#working.add(environment);
    if (batch !== undefined) this.batches.push(batch);
  }

  #checkBound(): void {
    const { ratio, slotsPerStep, reject } = this.#options;
    if (reject !== undefined) return;
    const most = Math.max(...this.#queues.outstanding);
    if (most > (2 * Math.ceil(ratio) + 1) * slotsPerStep) throw new Error(`${most} slots in a queue`);
  }
}

describe("whatever environments do, and in whatever order", () => {
  test.each(POLICIES)("%s: no batch holds a slot over the bound or one twice, and there is no deadlock", (policy) => {
    const rng = new Rng(`cases/${policy}`);
    for (let i = 0; i < 40; i++) {
      const groupSize = rng.int(1, 3);
      const options: GroupQueueOptions<number> = {
        groups: rng.int(1, 4),
        environmentsPerGroup: rng.int(1, 4),
        groupSize,
        redundancy: rng.int(0, 2),
        slotsPerStep: rng.int(1, 2),
        ...(rng.next() < 0.5 ? { ratio: rng.int(0, 3), inOrder: true } : { ratio: rng.int(0, 12) / 4 }),
        policy,
        replace: rng.next() < 0.5,
        ...(rng.next() < 0.5 ? { isSpoiled: (score) => score === 0 } : {}),
        ...(rng.next() < 0.3 && groupSize > 1 ? { reject: (scores) => new Set(scores).size === 1 } : {}),
      };
      const batchSize = rng.int(1, options.groups * options.slotsPerStep);
      const batches = new Play(options, `${policy}/${i}`).run(12, batchSize);
      const seen = new Set<string>();
      for (const [step, { slots }] of batches.entries()) {
        expect(slots).toHaveLength(batchSize);
        for (const { group, episode, createStep, staleness, results } of slots) {
          expect(staleness).toBe(step - createStep);
          expect(staleness).toBeLessThanOrEqual(Math.ceil(options.ratio));
          expect(staleness).toBeGreaterThanOrEqual(0);
          const { isSpoiled = () => false, redundancy } = options;
          const useful = results.filter(({ result }) => !isSpoiled(result)).length;
          // As many as wanted, or all that could be had; never more than it takes.
          expect(results.length === groupSize + redundancy ? useful <= groupSize : useful === groupSize).toBe(true);
          expect(results.length).toBeLessThanOrEqual(groupSize + (options.isSpoiled ? redundancy : 0));
          expect(seen.size).toBeLessThan(seen.add(`${group}/${episode}`).size);
        }
        const oldest = slots.filter(({ staleness }) => staleness > options.ratio);
        expect(oldest.length).toBeLessThanOrEqual(Math.floor((options.ratio % 1) * batchSize + 1e-9));
      }
    }
  });
});

test("redundant environments stand in for spoiled results, as far as they go", () => {
  const options = { environmentsPerGroup: 4, groupSize: 2, redundancy: 1, isSpoiled: (score: number) => score < 0 };
  const outcomesOf = (...scores: number[]) => {
    const queues = new GroupQueues({ ...ONE, ...options });
    queues.advance(0);
    for (const environment of [0, 1, 2]) expect(queues.request(environment)).toBe(0);
    const outcomes = scores.map((score, environment) => queues.put(environment, score).outcome);
    const results = queues.takeBatch(1, 0)?.slots[0]?.results.map(({ result }) => result);
    return [outcomes, results];
  };
  expect(outcomesOf(1, 2)).toEqual([
    ["stored", "completed"],
    [1, 2],
  ]);
  expect(outcomesOf(1, -2, 3)).toEqual([
    ["stored", "stored", "completed"],
    [1, -2, 3],
  ]);
  // two are spoiled and one stood in: nobody waits for what cannot come
  expect(outcomesOf(-1, -2, 3)).toEqual([
    ["stored", "stored", "completed"],
    [-1, -2, 3],
  ]);
});

const ONE: GroupQueueOptions<number> = {
  ...{ groups: 1, environmentsPerGroup: 2, groupSize: 1, redundancy: 0, slotsPerStep: 1, ratio: 0 },
  policy: "greedy",
};

test("an environment that gives up leaves its place to one that waits", () => {
  const queues = new GroupQueues(ONE);
  queues.advance(0);
  expect(queues.request(0)).toBe(0);
  expect(queues.request(1)).toBeUndefined();
  expect(queues.release(0).served).toEqual([{ environment: 1, episode: 0 }]);
  expect(queues.takeBatch(1, 0)).toBeUndefined();
  expect(queues.put(1, 1).batch?.slots).toHaveLength(1);
});

test("what a dropped slot leaves behind is named, so that it can be cancelled", () => {
  const queues = new GroupQueues({ ...ONE, groupSize: 2 });
  queues.advance(0);
  queues.request(0);
  queues.put(0, 1);
  queues.request(1);
  expect(queues.advance(1).dropped).toEqual([{ group: 0, episode: 0, createStep: 0, results: 1, working: [1] }]);
  expect(queues.put(1, 1).outcome).toBe("ignored");
});

test("what is no longer needed of a complete slot is named", () => {
  const queues = new GroupQueues({ ...ONE, environmentsPerGroup: 3, redundancy: 1 });
  queues.advance(0);
  queues.request(0);
  queues.request(1);
  expect(queues.put(1, 1)).toMatchObject({ outcome: "completed", surplus: [0] });
  expect(queues.request(2)).toBeUndefined();
  expect(queues.release(0).served).toEqual([]);
});

test("half a step of lead: half of the queues begin with one slot more, and no batch has more of them than that", () => {
  const queues = new GroupQueues({ ...ONE, groups: 4, environmentsPerGroup: 1, ratio: 0.5 });
  queues.advance(0);
  expect(queues.outstanding).toEqual([2, 2, 1, 1]);
  for (const environment of [0, 0, 1, 1, 2, 3]) {
    queues.request(environment);
    queues.put(environment, 1);
  }
  expect(queues.takeBatch(4, 0)?.slots.map(({ staleness }) => staleness)).toEqual([0, 0, 0, 0]);
  queues.advance(1);
  // the two that were left and, made at this step, one of each queue
  expect(queues.outstanding).toEqual([1, 1, 2, 2]);
});

test("with replacement a straggler does not cost the run its lead", () => {
  for (const replace of [false, true]) {
    const queues = new GroupQueues({ ...ONE, ratio: 1, replace });
    queues.advance(0);
    queues.request(0); // never ends
    queues.request(1);
    queues.put(1, 1);
    expect(queues.takeBatch(1, 0)?.slots).toHaveLength(1);
    queues.advance(1);
    queues.request(1);
    queues.put(1, 1);
    expect(queues.takeBatch(1, 1)?.slots).toHaveLength(1);
    expect(queues.advance(2).dropped).toHaveLength(1);
    expect(queues.outstanding).toEqual([replace ? 2 : 1]);
  }
});

test("a straggler holds up its queue only where slots are given in the order they were made", () => {
  for (const inOrder of [false, true]) {
    const queues = new GroupQueues({ ...ONE, ratio: 1, inOrder });
    queues.advance(0);
    queues.request(0); // never ends
    queues.request(1);
    queues.put(1, 1);
    expect(queues.takeBatch(1, 0)?.slots.length).toBe(inOrder ? undefined : 1);
  }
});

test("calls out of order are refused", () => {
  expect(() => new GroupQueues({ ...ONE, ratio: -1 })).toThrow("cannot work with");
  const queues = new GroupQueues(ONE);
  queues.advance(3);
  expect(() => queues.advance(3)).toThrow("at step 3");
  expect(() => queues.put(0, 1)).toThrow("works on nothing");
  queues.request(0);
  expect(() => queues.request(0)).toThrow("twice");
  expect(() => queues.request(2)).toThrow("no environment 2");
  queues.takeBatch(1, 3);
  expect(() => queues.takeBatch(1, 3)).toThrow("another is waited for");
});
