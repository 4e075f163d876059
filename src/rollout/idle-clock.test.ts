import { expect, test } from "bun:test";
import { IdleClock } from "./idle-clock.ts";

test("the share of the time in which nothing was at work, since it was last asked", () => {
  const clock = new IdleClock(0);
  clock.set(true, 10);
  clock.set(true, 20);
  clock.set(false, 30);
  expect(clock.take(40)).toBe(0.5);
  clock.set(true, 45);
  expect(clock.take(60)).toBe(0.25);
  expect(clock.take(70)).toBe(0);
  clock.set(false, 70);
  expect(clock.take(80)).toBe(1);
});
