/** Trajectories as JSON lines and as Parquet, an episode at a time: memory does not grow with the run. */

import type { SchemaElement } from "hyparquet";
import { fileWriter, ParquetWriter } from "hyparquet-writer";
import type { EpisodeDetail } from "../store/records.ts";
import { COLUMNS, type Column } from "./columns.ts";
import { writeAtomically, writeLines } from "./files.ts";

/** A row group ends at either limit: rows, or tokens (each of which is boxed while it is encoded). */
const GROUP_ROWS = 1000;
const GROUP_TOKENS = 200_000;

/** One JSON object per line, with the columns of the Parquet file. */
export async function writeTrajectoriesJsonl(path: string, episodes: AsyncIterable<EpisodeDetail>): Promise<void> {
  await writeLines(path, toJsonLines(episodes));
}

async function* toJsonLines(episodes: AsyncIterable<EpisodeDetail>): AsyncGenerator<string> {
  for await (const episode of episodes) {
    yield JSON.stringify(Object.fromEntries(COLUMNS.map(({ name, read }) => [name, toJson(read(episode))])));
  }
}

/** Float32 values with nine digits: as few as give the same value back. */
function toJson(value: unknown): unknown {
  if (value instanceof Float32Array) return Array.from(value, (x) => Number(x.toPrecision(9)));
  return ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value;
}

/** A Parquet file compressed with zstd; its metadata hold the meaning of each column. */
export async function writeTrajectoriesParquet(
  path: string,
  episodes: AsyncIterable<EpisodeDetail>,
  createdBy: string,
): Promise<void> {
  await writeAtomically(path, async (partial) => {
    const writer = new ParquetWriter({
      writer: fileWriter(partial),
      schema: parquetSchema(),
      codec: "ZSTD",
      compressors: { ZSTD: (input) => Bun.zstdCompressSync(input, { level: 3 }) },
      kvMetadata: COLUMNS.map(({ name, meaning }) => ({ key: `column.${name}`, value: meaning })),
      createdBy,
    });
    let rows: EpisodeDetail[] = [];
    let tokens = 0;
    const flush = () => {
      writer.write({ columnData: COLUMNS.map((column) => columnData(column, rows)), rowGroupSize: GROUP_ROWS });
      rows = [];
      tokens = 0;
    };
    for await (const episode of episodes) {
      rows.push(episode);
      tokens += episode.tokens.ids.length;
      if (rows.length >= GROUP_ROWS || tokens >= GROUP_TOKENS) flush();
    }
    if (rows.length > 0) flush();
    writer.finish();
  });
}

function columnData({ name, read, type }: Column, rows: readonly EpisodeDetail[]) {
  const values = rows.map(read);
  if (type === "INT64") return { name, data: values.map((value) => BigInt(value as number)) };
  return { name, data: type.endsWith("[]") ? values.map((value) => Array.from(value as Int32Array)) : values };
}

function parquetSchema(): SchemaElement[] {
  return [{ name: "root", num_children: COLUMNS.length }, ...COLUMNS.flatMap(schemaElements)];
}

function schemaElements({ name, type, nullable }: Column): SchemaElement[] {
  const repetition_type = nullable ? "OPTIONAL" : "REQUIRED";
  switch (type) {
    case "STRING":
      return [{ name, type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type }];
    case "JSON":
      return [{ name, type: "BYTE_ARRAY", converted_type: "JSON", repetition_type }];
    case "TIMESTAMP":
      return [{ name, type: "INT64", converted_type: "TIMESTAMP_MILLIS", repetition_type }];
    case "INT32[]":
    case "FLOAT[]": {
      const element = type === "INT32[]" ? ("INT32" as const) : ("FLOAT" as const);
      return [
        { name, converted_type: "LIST", repetition_type, num_children: 1 },
        { name: "list", repetition_type: "REPEATED", num_children: 1 },
        { name: "element", type: element, repetition_type: "REQUIRED" },
      ];
    }
    default:
      return [{ name, type, repetition_type }];
  }
}
