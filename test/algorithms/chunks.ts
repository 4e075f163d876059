/** Golden vectors of chunk segmentation (`06`). */

import { z } from "zod";
import { countChunks, maskRuns, segmentTurns } from "../../src/algorithms/chunks.ts";
import { compareExact, type Operation, Row, Rows } from "./compare.ts";

const Turns = z.array(z.object({ role: z.string(), tokens: z.number() }));

const SegmentSchema = z.object({
  inputs: z.object({ turns: Turns, max_len: z.number().nullable() }),
  expected: z.object({
    response_mask: Row,
    chunk_ids: Row,
    spans: Rows,
    num_chunks: z.number(),
    turn_to_chunk: z.array(z.number().nullable()),
    mask_run_ids: Row,
  }),
});

function checkSegment(golden: unknown): string {
  const { inputs, expected } = SegmentSchema.parse(golden);
  const got = segmentTurns(inputs.turns, inputs.max_len ?? undefined);
  compareExact("response_mask", [...got.mask_T], expected.response_mask);
  compareExact("chunk_ids", [...got.turnIds_T], expected.chunk_ids);
  compareExact("spans", got.spans, expected.spans);
  compareExact("num_chunks", got.spans.length, expected.num_chunks);
  compareExact("turn_to_chunk", got.chunkOfTurn, expected.turn_to_chunk);
  compareExact("mask_run_ids", [...maskRuns(got.mask_T)], expected.mask_run_ids);
  return "";
}

const FilteredSchema = z.object({
  inputs: z.object({ turns: Turns, max_len: z.number().nullable(), filtered_mask: Row }),
  expected: z.object({ chunk_ids: Row, num_chunks: z.number(), mask_run_ids_of_filtered: Row }),
});

/** A filter changes what runs of the mask would be, and nothing about the chunks. */
function checkFiltered(golden: unknown): string {
  const { inputs, expected } = FilteredSchema.parse(golden);
  const got = segmentTurns(inputs.turns, inputs.max_len ?? undefined);
  compareExact("chunk_ids", [...got.turnIds_T], expected.chunk_ids);
  compareExact("num_chunks", countChunks(got.turnIds_T), expected.num_chunks);
  compareExact("mask_run_ids_of_filtered", [...maskRuns(inputs.filtered_mask)], expected.mask_run_ids_of_filtered);
  return "";
}

export const CHUNKS: readonly Operation[] = [
  ["segment/", checkSegment],
  ["truncate/", checkSegment],
  ["filtered_mask/", checkFiltered],
];
