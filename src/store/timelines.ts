/**
 * Tracks of a step's timeline as compressed blocks, one row each.
 *
 * Format 0: zstd over a header and columns. The header is its length in bytes (uint32) and JSON of that length, padded with
 * spaces so that the columns are aligned: `names`, `rows`, `dropped`. The columns have `count` elements each, little-endian:
 * begins (float64, µs since the one before; the first since the row's `started_at`), durations (float64, µs), amounts
 * (int32), kinds (uint8).
 */

import { and, asc, desc, eq, lte } from "drizzle-orm";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import { AleError } from "../core/errors.ts";
import type { Track } from "../core/timeline.ts";
import * as schema from "./schema.ts";

export interface PackedTrack {
  readonly track: string;
  /** Milliseconds since 1970. */
  readonly startedAt: number;
  readonly count: number;
  readonly format: number;
  readonly data: Buffer;
}

const ZSTD = 0;
const ALIGNMENT = 8;
const BYTES_PER_SPAN = 8 + 8 + 4 + 1;

/** Times are rounded to microseconds. */
export function packTrack({ name, rows, spans }: Track): PackedTrack {
  const { names, dropped, kinds, begins, durations, amounts } = spans;
  const count = kinds.length;
  const startedAt = Math.round((begins[0] ?? 0) * 1000) / 1000;
  const header = encodeHeader({ names, dropped, ...(rows === undefined ? {} : { rows }) });
  const plain = new Uint8Array(header.length + count * BYTES_PER_SPAN);
  plain.set(header);
  const times = new Float64Array(plain.buffer, header.length, 2 * count);
  let before = 0;
  for (let i = 0; i < count; i++) {
    const since = (begins[i] as number) - startedAt;
    const begin = Math.round(since * 1000);
    times[i] = begin - before;
    // What ends together, or within another, does so after rounding too.
    times[count + i] = Math.round((since + (durations[i] as number)) * 1000) - begin;
    before = begin;
  }
  new Int32Array(plain.buffer, header.length + 16 * count, count).set(amounts);
  plain.set(kinds, header.length + 20 * count);
  return { track: name, startedAt, count, format: ZSTD, data: Bun.zstdCompressSync(plain, { level: 3 }) };
}

interface Header {
  readonly names: readonly string[];
  readonly rows?: readonly string[];
  readonly dropped: number;
}

function encodeHeader(header: Header): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil((4 + json.length) / ALIGNMENT) * ALIGNMENT;
  const bytes = new Uint8Array(length).fill(0x20);
  new DataView(bytes.buffer).setUint32(0, length - 4, true);
  bytes.set(json, 4);
  return bytes;
}

/** @throws AleError("store") when the block is not what its format says. */
export function unpackTrack({ track, startedAt, count, format, data }: PackedTrack): Track {
  if (format !== ZSTD) {
    throw new AleError("store", `timeline of unknown format ${format}`, {
      hint: "it was written by a newer version of ale: use that version",
    });
  }
  const { header, columns } = readBlock(data);
  if (columns.byteLength !== count * BYTES_PER_SPAN) throw damaged();
  const times = new Float64Array(columns, 0, 2 * count);
  const begins = new Float64Array(count);
  const durations = new Float64Array(count);
  let begin = 0;
  for (let i = 0; i < count; i++) {
    begin += times[i] as number;
    begins[i] = startedAt + begin / 1000;
    durations[i] = (times[count + i] as number) / 1000;
  }
  const { names, rows, dropped } = header;
  const amounts = new Int32Array(columns, 16 * count, count);
  const kinds = new Uint8Array(columns, 20 * count, count);
  const spans = { names, kinds, begins, durations, amounts, dropped };
  return { name: track, spans, ...(rows === undefined ? {} : { rows }) };
}

function readBlock(data: Buffer): { header: Header; columns: ArrayBuffer } {
  try {
    const bytes = new Uint8Array(Bun.zstdDecompressSync(data));
    const end = 4 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, end))) as Header;
    return { header, columns: bytes.slice(end).buffer };
  } catch (cause) {
    throw damaged(cause);
  }
}

function damaged(cause?: unknown): AleError {
  return new AleError("store", "the timeline of a step is damaged", { hint: "restore the store from a copy", cause });
}

/** Stores the tracks of a step, and forgets those of all steps but the newest `keep` that have any. */
export async function writeTimeline(
  tx: LibSQLDatabase,
  runId: string,
  step: number,
  { tracks, keep }: { readonly tracks: readonly Track[]; readonly keep: number },
): Promise<void> {
  const rows = tracks.filter(({ spans }) => spans.kinds.length > 0).map(packTrack);
  if (rows.length > 0) await tx.insert(schema.timelines).values(rows.map((row) => ({ runId, step, ...row })));
  const steps = await selectTimelineSteps(tx, runId);
  const outdated = steps.at(-1 - keep);
  if (outdated === undefined) return;
  const { timelines } = schema;
  await tx.delete(timelines).where(and(eq(timelines.runId, runId), lte(timelines.step, outdated)));
}

/** Steps that have a timeline, in order. */
export async function selectTimelineSteps(database: LibSQLDatabase, runId: string): Promise<number[]> {
  const { timelines } = schema;
  const rows = await database
    .selectDistinct({ step: timelines.step })
    .from(timelines)
    .where(eq(timelines.runId, runId))
    .orderBy(desc(timelines.step));
  return rows.map(({ step }) => step).reverse();
}

export async function selectTimeline(database: LibSQLDatabase, runId: string, step: number): Promise<Track[]> {
  const { timelines } = schema;
  const rows = await database
    .select()
    .from(timelines)
    .where(and(eq(timelines.runId, runId), eq(timelines.step, step)))
    .orderBy(asc(timelines.track));
  return rows.map((row) => unpackTrack({ ...row, data: Buffer.from(row.data) }));
}
