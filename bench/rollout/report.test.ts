import { expect, test } from "bun:test";
import { type Row, report, table } from "./report.ts";

const row = (name: string, law: "A" | "C", seed: number, episodesPerSecond: number): Row => ({
  ...{ name, law, seed },
  measured: {
    episodesPerSecond,
    ...{ idle: 0.1, stalenessMean: 1, generateShare: 0.6, trainShare: 0.3 },
  },
  reward: { mean: 0.5, low: 0.4, high: 0.6 },
  predicted: { episodesPerSecond: 9, idle: [0.1, 0.3], stalenessMean: 1, generateShare: 0.5, trainShare: 0.3 },
  decodeMs: 7,
  bound: { episodesPerSecond: 50, workAndPlaces: 50, gate: 60, rows: 4 },
});

const ROWS = [
  ...[row("sync", "A", 1, 10), row("async-split", "A", 1, 20), row("async-shared", "A", 1, 30)],
  ...[row("sync", "A", 2, 10), row("async-split", "A", 2, 20), row("async-elastic", "A", 2, 40)],
  ...[row("sync", "A", 3, 10), row("async-split", "A", 3, 20), row("async-shared", "A", 3, 25)],
  ...[row("sync", "C", 1, 10), row("async-shared", "C", 1, 90)],
];

test("ratios are medians over the seeds of law A, each of the best mode; by law where there are others", () => {
  const { modes, ...ratios } = report(ROWS);
  expect(ratios).toEqual({
    asyncOverSync: 3,
    multiplexOverSplit: 1.5,
    byLaw: {
      A: { asyncOverSync: 3, multiplexOverSplit: 1.5 },
      C: { asyncOverSync: 9, multiplexOverSplit: null },
    },
  });
  expect(modes).toHaveLength(ROWS.length);
  expect(modes[2]).toMatchObject({ name: "async-shared", law: "A", seed: 1, episodesPerSecond: 30, overBound: 0.6 });
  expect(modes[2]).toMatchObject({ generateOverTrain: 2, predicted: { episodesPerSecond: 9, idle: 0.2 } });
});

test("without the modes that are compared there is no ratio", () => {
  expect(report([row("sync", "C", 1, 10)])).toMatchObject({ asyncOverSync: null, multiplexOverSplit: null });
  expect(report([])).toMatchObject({ modes: [], asyncOverSync: null });
});

test("a table has a line per run and the ratios below", () => {
  const lines = table(ROWS).split("\n");
  expect(lines).toHaveLength(1 + ROWS.length + 2);
  expect(lines.at(-2)).toBe("asynchronous over synchronous 3.00");
});
