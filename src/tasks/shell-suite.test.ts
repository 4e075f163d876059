/** The shipped suite; that its demonstrations do what they say is tested in `test/shell-suite.test.ts`. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { PlainBashProvider, rewardOf } from "../../test/support/plain-bash.ts";
import { SPLITS, type Task } from "../core/types.ts";
import { checkSuite } from "./check.ts";
import { diskSource } from "./source.ts";
import { loadSuite } from "./suite.ts";
import { splitOf } from "./words.ts";

const suite = loadSuite(join(import.meta.dir, "../../tasks/shell"));
const instance = fc.record({
  family: fc.constantFrom(...suite.families),
  split: fc.constantFrom(...SPLITS),
  seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
});

/** Everything an agent or a grader could read of a task. */
function textOf(task: Task): string {
  const decoder = new TextDecoder();
  const files = [...task.files, ...task.tests, ...task.solution];
  return [task.instruction, ...files.flatMap(({ path, content }) => [path, decoder.decode(content)])].join("\n");
}

test("fourteen families, each with experts and one dominant mistake", () => {
  expect(suite.families).toEqual(
    "big cfg chain count exec finddel findren fix json mvext sed sortu sum tree".split(" "),
  );
  for (const name of suite.families) {
    const { demonstrations } = suite.render(name, "train", 0);
    const weights = demonstrations.filter(({ kind }) => kind === "mistake").map(({ weight }) => weight);
    expect(Math.max(...weights) / weights.reduce((sum, weight) => sum + weight, 0)).toBeGreaterThanOrEqual(0.9);
    expect(demonstrations.some(({ kind }) => kind === "expert")).toBe(true);
  }
});

test("an instance is a function of family, split and seed", () => {
  const other = loadSuite(join(import.meta.dir, "../../tasks/shell"));
  fc.assert(
    fc.property(instance, ({ family, split, seed }) => {
      const task = suite.render(family, split, seed);
      expect(other.render(family, split, seed)).toEqual(task);
      expect(task.id).toBe(`shell/${family}/${split}/${seed}`);
    }),
    { numRuns: 60 },
  );
});

/** Whatever looks like a pseudo-word. */
const wordsIn = (text: string) => text.match(/\b(?:[bdfgklmnprstvz][aeiou]){2,3}[nrsl]?\b/g) ?? [];

/** Words like `file` and `delete`, which stand in the templates themselves. */
const folders = diskSource(join(import.meta.dir, "../../tasks/shell"));
const fixed = new Set(
  folders.files("").flatMap((path) => wordsIn(new TextDecoder().decode(folders.read(path)?.content))),
);

test("splits share no content word, in any text of any task", () => {
  const pools = SPLITS.map((split) => {
    const tasks = suite.families.flatMap((family) =>
      Array.from({ length: 12 }, (_, seed) => suite.render(family, split, seed)),
    );
    return { split, words: new Set(tasks.flatMap((task) => wordsIn(textOf(task)))).difference(fixed) };
  });
  for (const { split, words } of pools) {
    expect(words.size).toBeGreaterThan(500);
    expect([...words].filter((word) => splitOf(word) !== split)).toEqual([]);
    const others = pools.filter((pool) => pool.split !== split);
    expect(others.flatMap((pool) => [...pool.words.intersection(words)])).toEqual([]);
  }
});

test("one family gives thousands of different instructions", () => {
  const seen = new Set(Array.from({ length: 500 }, (_, seed) => suite.render("cfg", "heldout", seed).instruction));
  expect(seen.size).toBeGreaterThan(495);
});

test("a sampler visits every family once per rotation, with new instances, and resumes anywhere", () => {
  const sampler = suite.sampler(3, "train");
  const tasks = Array.from({ length: 28 }, (_, position) => sampler.at(position));
  for (const rotation of [tasks.slice(0, 14), tasks.slice(14)]) {
    expect(rotation.map(({ family }) => family).sort()).toEqual([...suite.families]);
  }
  expect(new Set(tasks.map(({ id }) => id)).size).toBe(28);
  expect(suite.sampler(3, "train").at(17)).toEqual(tasks[17] as Task);
  expect(suite.sampler(4, "train").at(17).id).not.toBe(tasks[17]?.id);
});

test("the grader accepts the expected tree and nothing beside it", async () => {
  const task = suite.render("cfg", "train", 5);
  const expert = task.demonstrations[0]?.commands ?? [];
  const file = task.files[0]?.path;
  const out = task.tests.find(({ path }) => /^expected\/[a-z]+$/.test(path))?.path.slice("expected/".length);
  const attempts: [string, number][] = [
    ["true", 1],
    ["touch .hidden", 0],
    ["mkdir empty", 0],
    [`echo >> ${file}`, 0],
    [`rm ${file}`, 0],
    [`mv ${out} ../moved; ln -s ../moved ${out}`, 0],
    [`rm ${out}; mkfifo ${out}`, 0],
  ];
  const rewards = await Promise.all(attempts.map(([extra]) => rewardOf(task, [...expert, extra])));
  expect(attempts.map(([extra], i) => [extra, rewards[i]])).toEqual(attempts);
});

test("a check reports what oracle, no-op and grader did", async () => {
  const seen: string[] = [];
  const rows = await checkSuite(
    loadSuite(join(import.meta.dir, "../../tasks/hello")),
    new PlainBashProvider(),
    async (_, sandbox) => ({ reward: (await sandbox.readFile("/work/greeting.txt", 100)) === null ? 0 : 1 }),
    { samples: 5, concurrency: 2, signal: new AbortController().signal },
    (row) => seen.push(row.task),
  );
  expect(rows).toEqual([{ task: "hello/hello", seed: 0, oracle: 1, noop: 0, ms: expect.any(Number) }]);
  expect(seen).toEqual(["hello/hello"]);
});
