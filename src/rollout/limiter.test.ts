import { expect, test } from "bun:test";
import { Limiter } from "./limiter.ts";

test("never more than the limit at once, in order, and a failure frees its place", async () => {
  const limiter = new Limiter(3);
  let active = 0;
  let most = 0;
  const order: number[] = [];
  const work = Array.from({ length: 20 }, (_, i) =>
    limiter.run(async () => {
      order.push(i);
      most = Math.max(most, ++active);
      await Bun.sleep(i % 3);
      active--;
      if (i === 5) throw new Error("five");
      return i;
    }),
  );
  const results = await Promise.allSettled(work);
  expect(most).toBe(3);
  expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i));
  expect(results.filter((result) => result.status === "rejected")).toHaveLength(1);
});
