import { expect, test } from "bun:test";
import { finish, interleave, type MicroOperations, paced } from "./micro-operations.ts";

function* count(log: string[], operations: number): MicroOperations<number> {
  for (let i = 0; i < operations; i++) {
    log.push(`operation ${i}`);
    if (i + 1 < operations) yield;
  }
  return operations;
}

/** A call that lasts. */
function busy(ms: number): () => void {
  return () => {
    const until = performance.now() + ms;
    while (performance.now() < until);
  };
}

test("work is the same at once and with pauses, which lie between micro-operations", async () => {
  const [once, paused]: string[][] = [[], []];
  expect(finish(count(once as string[], 3))).toBe(3);
  const pause = async () => void paused?.push("pause");
  expect(await interleave(count(paused as string[], 3), pause)).toBe(3);
  expect(paused).toEqual(["operation 0", "pause", "operation 1", "pause", "operation 2"]);
  expect(once).toEqual(paused?.filter((entry) => entry !== "pause"));
});

test("a pause that rejects ends the work there", async () => {
  const log: string[] = [];
  const given = interleave(count(log, 3), () => Promise.reject(new Error("given up")));
  await expect(given).rejects.toThrow("given up");
  expect(log).toEqual(["operation 0"]);
});

test("calls in order; a long one is a micro-operation of its own, and the last is left to the caller", () => {
  const order: number[] = [];
  const calls = [8, 8, 8].map((ms, i) => () => {
    order.push(i);
    busy(ms)();
  });
  const begun: number[] = [];
  const work = paced(calls, (began) => begun.push(began));
  const last = finish(work);
  expect(order).toEqual([0, 1, 2]);
  expect(begun).toHaveLength(2);
  expect(last).toBeGreaterThanOrEqual((begun[1] as number) + 8);
  expect(finish(paced([], () => order.push(9), 5))).toBe(5);
  expect(order).toHaveLength(3);
});
