import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Exchange } from "./exchange.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-exchange-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function engines(name: string, size: number): Exchange[] {
  return Array.from({ length: size }, (_, rank) => Exchange.open(join(folder, name), { rank, size, length: 100 }));
}

test("all learn the values of all, however many they are, again and again", async () => {
  const all = engines("gather", 3);
  for (const exchange of all) exchange.begin(1);
  const lengths = [3, 40_000, 0];
  const values = (rank: number, round: number) =>
    Float64Array.from({ length: lengths[rank] as number }, (_, i) => rank + i * round);
  const seen = all.map(async (exchange, rank) => {
    for (let round = 1; round <= 4; round++) {
      // some are late, each time another one
      if (round % 3 === rank) await Bun.sleep(2);
      const got = await exchange.gather("values", values(rank, round), lengths);
      expect(got).toEqual([0, 1, 2].map((other) => values(other, round)));
    }
  });
  await Promise.all(seen);
});

test("what an engine of an older attempt said does not count", async () => {
  const [first, second] = engines("attempts", 2) as [Exchange, Exchange];
  first.begin(1);
  second.begin(1);
  await Promise.all([first, second].map((exchange) => exchange.meet("one")));
  first.begin(2);
  let met = false;
  const meeting = first.meet("two").then(() => {
    met = true;
  });
  await Bun.sleep(5);
  expect(met).toBe(false);
  second.begin(2);
  await second.meet("two");
  await meeting;
});

test("an attempt that is given up releases those who wait, and is not begun again", async () => {
  const [first, second] = engines("abandon", 2) as [Exchange, Exchange];
  first.begin(1);
  const waiting = first.meet("gradients").catch((error: Error) => error.message);
  await Bun.sleep(3);
  first.abandon(1);
  expect(await waiting).toContain("given up");
  second.abandon(1);
  expect(() => second.begin(1)).toThrow("given up");
  first.begin(2);
  second.begin(2);
  await Promise.all([first.meet("gradients"), second.meet("gradients")]);
});

test("those who do not take part are not waited for, and their place in the order is not counted", async () => {
  const all = engines("members", 4);
  const members = [1, 3];
  const [first, second] = members.map((rank) => all[rank]) as [Exchange, Exchange];
  for (const exchange of [first, second]) exchange.begin(1, members);
  expect(first.members).toEqual(members);
  const got = await Promise.all([first, second].map((exchange) => exchange.gather("ranks", [exchange.rank], [1, 1])));
  expect(got).toEqual(Array.from({ length: 2 }, () => [Float64Array.of(1), Float64Array.of(3)]));
  // In the next attempt others take part, one of them for the first time.
  const next = [all[0], second] as [Exchange, Exchange];
  for (const exchange of next) exchange.begin(2, [0, 3]);
  await Promise.all(next.map((exchange) => exchange.meet("weights")));
});

test("after a meeting work waits until it may go on", async () => {
  let go = () => {};
  const open = (rank: number, pause?: () => Promise<void>) =>
    Exchange.open(join(folder, "pause"), { rank, size: 2, length: 100, pause });
  const first = open(0, () => new Promise((resolve) => (go = resolve)));
  const second = open(1);
  first.begin(1);
  second.begin(1);
  let over = false;
  const meeting = first.meet("one").then(() => {
    over = true;
  });
  await second.meet("one");
  await Bun.sleep(5);
  expect(over).toBe(false);
  go();
  await meeting;
});
