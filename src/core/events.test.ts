import { expect, test } from "bun:test";
import { type AleEvent, EventHub } from "./events.ts";

const log = (message: string): AleEvent => ({ type: "log", level: "info", message });
const phase = (episodeId: string): AleEvent => ({ type: "episode.phase", episodeId, phase: "tool" });

test("every subscriber gets every event in order, with a growing number", () => {
  const hub = new EventHub();
  const seen: [string, number, string][] = [];
  for (const name of ["a", "b"]) {
    hub.subscribe(({ seq, event }) => seen.push([name, seq, event.type === "log" ? event.message : ""]));
  }
  hub.emit(log("one"));
  hub.emit(log("two"));
  expect(seen).toEqual([
    ["a", 1, "one"],
    ["b", 1, "one"],
    ["a", 2, "two"],
    ["b", 2, "two"],
  ]);
});

test("a listener that throws harms neither the emitter nor the others", () => {
  const hub = new EventHub();
  const seen: string[] = [];
  hub.subscribe(() => {
    throw new Error("broken");
  });
  hub.on("log", ({ message }) => seen.push(message));
  for (let i = 0; i < 100; i++) hub.emit(log(`${i}`));
  expect(seen).toHaveLength(100);
  expect(hub.listenerErrors.length).toBeGreaterThan(0);
  expect(hub.listenerErrors.length).toBeLessThan(100);
});

test("unsubscribing while an event is handed out ends it for the next event", () => {
  const hub = new EventHub();
  let calls = 0;
  const unsubscribe = hub.subscribe(() => {
    calls++;
    unsubscribe();
  });
  hub.emit(log("one"));
  hub.emit(log("two"));
  expect(calls).toBe(1);
});

test("a full queue drops transient events first and counts them", async () => {
  const hub = new EventHub();
  const queue = hub.queue(8);
  hub.emit(log("first"));
  for (let i = 0; i < 7; i++) hub.emit(phase(`${i}`));
  hub.emit(log("last"));
  const taken = await queue.take(1000);
  expect(taken.map(({ event }) => event.type)).toEqual(["log", "log"]);
  expect(queue.dropped).toBe(7);
});

test("a queue of lasting events only stays bounded too", async () => {
  const hub = new EventHub();
  const queue = hub.queue(10);
  for (let i = 0; i < 1000; i++) hub.emit(log(`${i}`));
  const taken = await queue.take(0);
  expect(taken.length).toBeLessThanOrEqual(10);
  expect(taken.at(-1)?.event).toEqual(log("999"));
  expect(taken.length + queue.dropped).toBe(1000);
});

test("take waits for an event, and no longer than it is told", async () => {
  const hub = new EventHub();
  const queue = hub.queue();
  expect(await queue.take(5)).toEqual([]);
  const waiting = queue.take(5000);
  hub.emit(log("now"));
  expect((await waiting).map(({ event }) => event)).toEqual([log("now")]);
});

test("iterating ends when the queue is closed, after what was waiting", async () => {
  const hub = new EventHub();
  const queue = hub.queue();
  hub.emit(log("one"));
  queue.close();
  hub.emit(log("two"));
  const seen: AleEvent[] = [];
  for await (const { event } of queue) seen.push(event);
  expect(seen).toEqual([log("one")]);
});
