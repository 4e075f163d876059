import { expect, test } from "bun:test";
import { deadline } from "./errors.ts";
import { beginWait, groupWaits, listWaits } from "./waits.ts";

const mine = () => listWaits().filter(({ who }) => who.startsWith("waits.test"));

test("a wait is listed from its beginning to its end, with its deadline", async () => {
  const before = Date.now();
  const { promise, resolve } = Promise.withResolvers<number>();
  const waiting = deadline("a number", 5000, promise, "internal", "waits.test/a");
  const endOther = beginWait("waits.test/b", "a sandbox");
  const [first, second] = mine();
  expect(first).toMatchObject({ who: "waits.test/a", forWhat: "a number" });
  expect(first?.since).toBeGreaterThanOrEqual(before);
  expect(first?.deadline).toBe((first?.since ?? 0) + 5000);
  expect(second).toMatchObject({ who: "waits.test/b", forWhat: "a sandbox", deadline: null });
  resolve(7);
  expect(await waiting).toBe(7);
  expect(mine().map(({ who }) => who)).toEqual(["waits.test/b"]);
  endOther();
  expect(mine()).toEqual([]);
});

test("a wait that failed or passed its deadline is no longer listed", async () => {
  const failing = deadline("a failure", 5000, Promise.reject(new Error("no")), "internal", "waits.test/c");
  expect(mine()).toHaveLength(1);
  await expect(failing).rejects.toThrow("no");
  await expect(deadline("nothing", 1, new Promise(() => {}), "internal", "waits.test/d")).rejects.toThrow(
    "nothing did not finish within 1 ms",
  );
  expect(mine()).toEqual([]);
});

test("waits for the same are one group, with the longest wait and the nearest deadline", () => {
  const wait = (who: string, forWhat: string, since: number, deadline: number | null) => ({
    ...{ who, forWhat, since, deadline },
  });
  const groups = groupWaits([
    wait("sandbox s2", "a command in sandbox s2", 30, 90),
    wait("sandbox s10", "a command in sandbox s10", 20, 100),
    wait("run", "collect, step 3", 10, null),
  ]);
  expect(groups).toEqual([
    { ...wait("run", "collect, step 3", 10, null), count: 1 },
    { ...wait("sandbox s10", "a command in sandbox s10", 20, 90), count: 2 },
  ]);
});
