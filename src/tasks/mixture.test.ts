import { describe, expect, test } from "bun:test";
import type { CurriculumConfig } from "../config/tasks.ts";
import { Curriculum } from "./curriculum.ts";
import { mixSuites } from "./mixture.ts";
import { loadSuite } from "./suite.ts";

const shell = loadSuite("tasks/shell", { families: ["cfg", "count", "sum"] });
const hello = loadSuite("tasks/hello");

describe("several suites as one", () => {
  const mixed = mixSuites([
    { suite: shell, weight: 3 },
    { suite: hello, weight: 1 },
  ]);

  test("each part has its share of any stretch, in its own order", () => {
    const sampler = mixed.sampler(7, "train");
    const ids = Array.from({ length: 400 }, (_, position) => sampler.at(position).id);
    for (let begin = 0; begin < 390; begin += 13) {
      const other = ids.slice(begin, begin + 8).filter((id) => id.startsWith("hello"));
      expect(other).toHaveLength(2);
    }
    const own = shell.sampler(7, "train");
    const fromShell = ids.filter((id) => id.startsWith("shell"));
    expect(fromShell).toEqual(fromShell.map((_, position) => own.at(position).id));
  });

  test("a position has its task whatever was asked before", () => {
    const forwards = mixed.sampler(7, "train");
    const backwards = mixed.sampler(7, "train");
    const late = backwards.at(50).id;
    for (let position = 0; position < 50; position++) forwards.at(position);
    expect(forwards.at(50).id).toBe(late);
  });

  test("families are found, and unknown or doubled ones are named", () => {
    expect(mixed.families).toEqual(["cfg", "count", "hello", "sum"]);
    expect(mixed.render("hello", "train", 0).suite).toBe("hello");
    expect(() => mixed.family("nothing")).toThrow('no family "nothing"');
    expect(() => mixSuites([shell, shell].map((suite) => ({ suite, weight: 1 })))).toThrow("both have a family cfg");
  });
});

describe("a curriculum", () => {
  const config: CurriculumConfig = { window: 16, low: 0.1, high: 0.9, floor: 0.1 };
  const counts = (curriculum: Curriculum, round: number) => {
    const families = Array.from({ length: 42 }, (_, i) => curriculum.task(round, i).family);
    return Object.fromEntries(
      shell.families.map((name) => [name, families.filter((family) => family === name).length]),
    );
  };

  test("meets families where something can be learned more often", () => {
    const curriculum = new Curriculum(config, shell, 42, 1);
    expect(counts(curriculum, 0)).toEqual({ cfg: 14, count: 14, sum: 14 });
    curriculum.note("cfg", Array(16).fill(1)); // learned
    curriculum.note("count", Array(16).fill(0)); // too hard
    curriculum.note("sum", [1, 0, 1, 0, 1, 0, 1, 0]);
    expect(counts(curriculum, 1)).toEqual({ cfg: 4, count: 3, sum: 35 });
    curriculum.note("count", Array(4).fill(1)); // one of four by now
    expect(curriculum.chances().count).toBeCloseTo(1 / 2.1);
  });

  test("a round stays as it was drawn, also for a run that goes on", () => {
    const curriculum = new Curriculum(config, shell, 42, 1);
    const before = counts(curriculum, 3);
    const ids = Array.from({ length: 42 }, (_, i) => curriculum.task(3, i).id);
    expect(new Set(ids).size).toBe(42);
    curriculum.note("sum", Array(16).fill(0));
    const state = JSON.parse(JSON.stringify(curriculum.state(3)));
    const resumed = new Curriculum(config, shell, 42, 1, state);
    expect(counts(resumed, 3)).toEqual(before);
    expect(counts(resumed, 4)).toEqual(counts(curriculum, 4));
    expect(counts(resumed, 4).sum).toBeLessThan(before.sum as number);
    expect(Object.keys(curriculum.state(4).rounds)).toEqual(["4"]);
  });
});
