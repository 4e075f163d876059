/** Golden vectors of the mismatch between training and generation (`04`). */

import { z } from "zod";
import type { Level } from "../../src/algorithms/levels.ts";
import {
  filterMismatch,
  importanceWeights,
  type MismatchFilter,
  type MismatchInput,
  mismatchDifferences,
  mismatchRatios,
} from "../../src/algorithms/mismatch.ts";
import { mean } from "../../src/algorithms/statistics.ts";
import {
  at,
  compareExact,
  compareNumber,
  compareRows,
  type Operation,
  Rows,
  report,
  requireZeros,
  sum,
} from "./compare.ts";

/** ROLL's names of the levels. */
const LEVEL_NAMES = ["token", "segment", "geometric", "sequence"] as const;
type LevelName = (typeof LEVEL_NAMES)[number];
const LEVEL_OF: Readonly<Record<LevelName, Level>> = {
  token: "token",
  segment: "chunk",
  geometric: "sequence",
  sequence: "product",
};

const BatchFields = { logp_old: Rows, logp_mu: Rows, mask: Rows, chunk_ids: Rows };
type Batch = z.infer<z.ZodObject<typeof BatchFields>>;

function rowsOf(batch: Batch): MismatchInput[] {
  return batch.logp_old.map((proximal_T, i) => ({
    proximal_T,
    behaviour_T: at(batch.logp_mu, i),
    mask_T: at(batch.mask, i),
    turnIds_T: at(batch.chunk_ids, i),
  }));
}

/** Golden files hold 0 outside of the mask, where our ratios are 1. */
function masked(rows: readonly Float64Array[], mask: readonly (readonly number[])[]): Float64Array[] {
  return rows.map((row, i) => row.map((value, t) => value * at(at(mask, i), t)));
}

const Levels = z.object({ token: Rows, segment: Rows, geometric: Rows, sequence: Rows });
const Means = z.object({ token: z.number(), segment: z.number(), geometric: z.number(), sequence: z.number() });
const StatsSchema = z.object({
  inputs: z.object(BatchFields),
  expected: z.object({ ratio: Levels, diff: Levels, ratio_mean: Means, diff_mean: Means }),
});

function checkStats(golden: unknown): string {
  const { inputs, expected } = StatsSchema.parse(golden);
  const rows = rowsOf(inputs);
  const meanOf = (values: readonly Float64Array[]) =>
    mean(values.map((row, i) => sum(row) / Math.max(1, sum(at(inputs.mask, i)))));
  const differences = LEVEL_NAMES.flatMap((name) => {
    const level = LEVEL_OF[name];
    const ratio = rows.map((row) => mismatchRatios(row, level));
    const diff = rows.map((row) => mismatchDifferences(row, level));
    requireZeros(
      "log ratio",
      ratio.map((row) => row.map(Math.log)),
      inputs.mask,
    );
    requireZeros("diff", diff, inputs.mask);
    const ratios = masked(ratio, inputs.mask);
    return [
      compareRows(`ratio.${name}`, ratios, expected.ratio[name]),
      compareRows(`diff.${name}`, diff, expected.diff[name]),
      compareNumber(`ratio_mean.${name}`, meanOf(ratios), expected.ratio_mean[name]),
      compareNumber(`diff_mean.${name}`, meanOf(diff), expected.diff_mean[name]),
    ];
  });
  return report(...differences);
}

const WeightSchema = z.object({
  inputs: z.object({ ...BatchFields, weight_type: z.enum(LEVEL_NAMES), upper_bound: z.number() }),
  expected: z.object({ weight: Rows, clip_fraction: z.number() }),
});

function checkWeight(golden: unknown): string {
  const { inputs, expected } = WeightSchema.parse(golden);
  const level = LEVEL_OF[inputs.weight_type];
  const ratios = rowsOf(inputs).map((row) => mismatchRatios(row, level));
  const weights = ratios.map((ratio) => importanceWeights(ratio, inputs.upper_bound));
  const clipped = masked(
    ratios.map((row) => row.map((ratio) => (ratio > inputs.upper_bound ? 1 : 0))),
    inputs.mask,
  );
  const fraction = sum(clipped.map(sum)) / sum(inputs.mask.map(sum));
  return report(
    compareRows("weight", masked(weights, inputs.mask), expected.weight),
    compareNumber("clip_fraction", fraction, expected.clip_fraction),
  );
}

const FilterSchema = z
  .object({
    agg_type: z.enum(LEVEL_NAMES),
    ratio_enabled: z.boolean(),
    ratio_low: z.number().optional(),
    ratio_high: z.number().optional(),
    diff_enabled: z.boolean(),
    diff_low: z.number().optional(),
    diff_high: z.number().optional(),
  })
  .transform((filter): MismatchFilter => {
    const within = (low = Number.NEGATIVE_INFINITY, high = Number.POSITIVE_INFINITY) => [low, high] as const;
    return {
      level: LEVEL_OF[filter.agg_type],
      ...(filter.ratio_enabled && { ratio: within(filter.ratio_low, filter.ratio_high) }),
      ...(filter.diff_enabled && { difference: within(filter.diff_low, filter.diff_high) }),
    };
  });
const FilterCaseSchema = z.object({
  inputs: z.object({ ...BatchFields, filters: z.array(FilterSchema) }),
  expected: z.object({ mask: Rows, kept: z.number() }),
});

function checkFilter(golden: unknown): string {
  const { inputs, expected } = FilterCaseSchema.parse(golden);
  const kept = rowsOf(inputs).map((row) => [...filterMismatch(row, inputs.filters)]);
  compareExact("mask", kept, expected.mask);
  return report(compareNumber("kept", sum(kept.map(sum)) / sum(inputs.mask.map(sum)), expected.kept));
}

export const MISMATCH: readonly Operation[] = [
  ["stats/", checkStats],
  ["is_weight/", checkWeight],
  ["filter/", checkFilter],
];
