import { describe, expect, test } from "bun:test";
import { Rng } from "../core/rng.ts";
import { type Work, WorkShare } from "./work-share.ts";

const BOTH = { generate: true, train: true };

/** Serves both queues until `until` ms have passed; micro-operations take what `lasts` says. */
function serve(share: WorkShare, until: number, lasts: (work: Work) => number) {
  const ms = { generate: 0, train: 0 };
  const order: Work[] = [];
  while (ms.generate + ms.train < until) {
    const work = share.next(BOTH) as Work;
    const took = lasts(work);
    share.spent(work, took);
    ms[work] += took;
    order.push(work);
  }
  return { ms, order };
}

describe("what goes next", () => {
  test.each([0.1, 0.5, 0.8])("training gets %p of the time, however long the micro-operations are", (trainShare) => {
    const rng = new Rng(`share ${trainShare}`);
    const { ms } = serve(new WorkShare(trainShare), 100_000, (work) => (work === "train" ? 100 : 4) * rng.next());
    expect(ms.train / (ms.train + ms.generate)).toBeCloseTo(trainShare, 2);
  });

  test("who is alone gets everything and owes nothing for it", () => {
    const share = new WorkShare(0.5);
    for (let i = 0; i < 100; i++) {
      expect(share.next({ generate: true, train: false })).toBe("generate");
      share.spent("generate", 10);
    }
    expect(share.next({ generate: false, train: false })).toBeUndefined();
    const { order } = serve(share, 60, () => 10);
    expect(order).toEqual(["generate", "train", "generate", "train", "generate", "train"]);
    for (let i = 0; i < 100; i++) {
      expect(share.next({ generate: false, train: true })).toBe("train");
      share.spent("train", 10);
    }
    expect(serve(share, 1000, () => 10).ms).toEqual({ generate: 500, train: 500 });
  });

  test("neither waits longer than its share of one micro-operation of the other", () => {
    const share = new WorkShare(0.25);
    const rng = new Rng("waits");
    const waited = { generate: 0, train: 0 };
    const longest = { generate: 0, train: 0 };
    serve(share, 50_000, (work) => {
      const took = (work === "train" ? 200 : 5) * (0.5 + rng.next());
      const other = work === "train" ? "generate" : "train";
      waited[work] = 0;
      waited[other] += took;
      longest[other] = Math.max(longest[other], waited[other]);
      return took;
    });
    expect(longest.generate).toBeLessThan(300);
    // After 300 ms of training generation has 900 ms before it is training's turn again.
    expect(longest.train).toBeLessThan(910);
  });
});
