import { expect, test } from "bun:test";
import { Admission, type Grant, NotAdmitted, type Resources } from "./admission.ts";
import type { Clock } from "./clock.ts";

/** A clock that stands still until it is moved. */
class TestClock implements Clock {
  #now = 1000;
  #timers: { at: number; run: () => void }[] = [];
  now(): number {
    return this.#now;
  }
  after(ms: number, run: () => void): () => void {
    const timer = { at: this.#now + ms, run };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }
  pass(ms: number): void {
    this.#now += ms;
    for (const timer of this.#timers.filter(({ at }) => at <= this.#now)) {
      this.#timers = this.#timers.filter((other) => other !== timer);
      timer.run();
    }
  }
  get waiting(): number {
    return this.#timers.length;
  }
}

const MB = 2 ** 20;
const CAPACITY: Resources = { memoryBytes: 100 * MB, cpus: 4, diskBytes: 50 * MB, count: 3 };
const need = (memoryMb: number, cpus = 0.1, diskMb = 1): Resources => ({
  memoryBytes: memoryMb * MB,
  cpus,
  diskBytes: diskMb * MB,
  count: 1,
});

function setUp() {
  const clock = new TestClock();
  const admission = new Admission(CAPACITY, clock);
  const order: string[] = [];
  const ask = (who: string, wanted: Resources, deadlineMs = 1000, signal?: AbortSignal): Promise<Grant> => {
    const asked = admission.request({ who, need: wanted, deadlineMs, signal });
    asked.then(
      () => order.push(who),
      (error: Error) => order.push(`${who}: ${error.message}`),
    );
    return asked;
  };
  return { clock, admission, order, ask };
}

test("room is given at once while there is some, and what is released is there again", async () => {
  const { admission, ask, clock } = setUp();
  const first = await ask("a", need(60));
  await ask("b", need(40));
  expect(admission.used).toMatchObject({ memoryBytes: 100 * MB, count: 2 });
  const third = ask("c", need(10));
  await Bun.sleep(0);
  expect(admission.waiting).toBe(1);
  first.release();
  first.release();
  await third;
  expect(admission.used).toMatchObject({ memoryBytes: 50 * MB, count: 2 });
  expect(clock.waiting).toBe(0);
});

test.each([
  ["memory (101 MB of 100 MB)", need(101)],
  ["cpus (5 of 4)", need(1, 5)],
  ["disk (51 MB of 50 MB)", need(1, 1, 51)],
])("more %s than there is, is refused at once", async (what, wanted) => {
  await expect(setUp().ask("a", wanted)).rejects.toThrow(`sandbox a asks for more than there is: ${what}`);
});

test("first come, first served: a large one is not overtaken by small ones", async () => {
  const { ask, order } = setUp();
  const running = await ask("running", need(90));
  const waiting = [ask("large", need(80)), ask("small", need(5)), ask("tiny", need(1))];
  await Bun.sleep(0);
  expect(order).toEqual(["running"]);
  running.release();
  await Promise.all(waiting.slice(0, 2));
  await Bun.sleep(0);
  expect(order).toEqual(["running", "large", "small", "tiny"]);
});

test("the number of sandboxes is limited, too", async () => {
  const { ask, admission } = setUp();
  await Promise.all(["a", "b", "c"].map((who) => ask(who, need(1))));
  ask("d", need(1)).catch(() => {});
  await Bun.sleep(0);
  expect(admission.waiting).toBe(1);
});

test("who waits too long is told what is missing, and does not hold back those behind", async () => {
  const { ask, clock, order } = setUp();
  await ask("running", need(90));
  const late = ask("late", need(80), 500);
  const behind = ask("behind", need(5), 9000);
  clock.pass(501);
  await expect(late).rejects.toBeInstanceOf(NotAdmitted);
  await behind;
  expect(order).toEqual([
    "running",
    "late: sandbox late found no room within 500 ms: it lacks memory (80 MB of 10 MB)",
    "behind",
  ]);
});

test("a wait that is cancelled leaves no trace", async () => {
  const { ask, admission, clock } = setUp();
  const running = await ask("running", need(100));
  const abort = new AbortController();
  const waiting = ask("cancelled", need(50), 1000, abort.signal);
  abort.abort();
  await expect(waiting).rejects.toMatchObject({ code: "interrupted" });
  running.release();
  expect([admission.waiting, admission.used.memoryBytes, clock.waiting]).toEqual([0, 0, 0]);
});

test("part of what was given can be kept", async () => {
  const { ask, admission } = setUp();
  const grant = await ask("a", need(60, 1, 20));
  grant.release({ memoryBytes: 0, cpus: 0, diskBytes: 20 * MB, count: 0 });
  expect(admission.used).toEqual({ memoryBytes: 0, cpus: 0, diskBytes: 20 * MB, count: 0 });
  grant.release();
  expect(admission.used.diskBytes).toBe(0);
});
