import { expect, test } from "bun:test";
import { Rng } from "../core/rng.ts";
import { type Place, Placement } from "./placement.ts";
import { cutByTokens, ownStretch } from "./shares.ts";

const alive = () => true;
const context = (...ids: number[]) => Int32Array.from(ids);

test("groups stay together, and each new one goes where there is least", () => {
  const placement = new Placement(3, 100, 32);
  for (const [group, rank] of [0, 1, 2, 0, 1, 2].entries()) {
    const places = Array.from({ length: 8 }, () => placement.take(context(7, group), alive));
    expect(places.map((place) => place.rank)).toEqual(new Array(8).fill(rank));
  }
});

test("a group much larger than usual is spread", () => {
  const placement = new Placement(2, 100, 32);
  const ranks = Array.from({ length: 64 }, () => placement.take(context(1, 2, 3), alive).rank);
  expect(Math.abs(ranks.filter((rank) => rank === 0).length - 32)).toBeLessThanOrEqual(8);
});

test("a group does not queue for one engine's decode batch while another's has room", () => {
  const placement = new Placement(2, 100, 2);
  const take = (...ids: number[]) => placement.take(context(...ids), alive).rank;
  expect([take(1), take(1), take(1), take(1)]).toEqual([0, 0, 1, 1]);
  // all batches are full now: a group's beginning counts again
  expect([take(2), take(2), take(2)]).toEqual([0, 0, 0]);
});

test("an engine that is down gets nothing while others have room, then takes its part", () => {
  const placement = new Placement(2, 4, 32);
  const ranks = [1, 2, 3, 4, 5].map((id) => placement.take(context(id), (rank) => rank === 1).rank);
  expect(ranks).toEqual([1, 1, 1, 1, 0]);
});

test("an engine that is slower gets fewer sequences", () => {
  const placement = new Placement(2, 20, 32);
  const slowness = (rank: number) => (rank === 0 ? 2 : 1);
  const ranks = Array.from({ length: 12 }, (_, id) => placement.take(context(id), alive, slowness).rank);
  expect(ranks.filter((rank) => rank === 0)).toHaveLength(4);
  expect(ranks[0]).toBe(1);
});

test("whatever is opened and closed, there is a place for each that may be open at once", () => {
  const rng = new Rng("placement");
  for (const engines of [1, 2, 3, 7]) {
    const sequences = 40;
    const capacity = Placement.capacity(sequences, engines);
    const placement = new Placement(engines, capacity, 32);
    const open: Place[] = [];
    for (let step = 0; step < 400; step++) {
      if (open.length < sequences && rng.int(0, 2) > 0) {
        const up = rng.int(0, engines);
        open.push(placement.take(context(rng.int(0, 5)), (rank) => rank !== up));
      } else {
        const [place] = open.splice(rng.int(0, Math.max(0, open.length - 1)), 1);
        place?.release();
        place?.release();
      }
      for (let rank = 0; rank < engines; rank++)
        expect(open.filter((place) => place.rank === rank).length).toBeLessThanOrEqual(capacity);
    }
  }
  const full = new Placement(1, 1, 32);
  full.take(context(1), alive);
  expect(() => full.take(context(2), alive)).toThrow("every engine has its 1 sequences open");
});

test("shares hold every sequence once, and no engine has much more than another", () => {
  const rng = new Rng("shares");
  for (const engines of [1, 2, 3, 8]) {
    const lengths = Array.from({ length: 50 }, () => rng.int(2, 200));
    const shares = cutByTokens(lengths, engines);
    expect(shares.flat().sort((a, b) => a - b)).toEqual([...lengths.keys()]);
    const tokens = shares.map((share) => share.reduce((sum, i) => sum + (lengths[i] as number), 0));
    expect(Math.max(...tokens) - Math.min(...tokens)).toBeLessThanOrEqual(Math.max(...lengths));
  }
});

test("stretches cover a flat array without gap or overlap, cut at cache lines", () => {
  for (const length of [1, 16, 17, 1000, 65_537]) {
    for (const engines of [1, 2, 3, 8]) {
      const cuts = Array.from({ length: engines }, (_, rank) => ownStretch(length, rank, engines));
      expect(cuts[0]?.begin).toBe(0);
      expect(cuts.at(-1)?.end).toBe(length);
      for (const [i, { begin }] of cuts.slice(1).entries()) {
        expect(begin).toBe(cuts[i]?.end as number);
        expect(begin % 16 === 0 || begin === length).toBe(true);
      }
    }
  }
});
