/** Trajectories as JSON lines and as Parquet, an episode at a time: memory does not grow with the run. */

import type { SchemaElement } from "hyparquet";
import { fileWriter, ParquetWriter } from "hyparquet-writer";
import type { EpisodeDetail } from "../store/records.ts";
import { COLUMNS, type Column } from "./columns.ts";
import { LineWriter, writeAtomically } from "./files.ts";

/** A row group ends at either limit: rows, or tokens (each of which is boxed while it is encoded). */
const GROUP_ROWS = 1000;
const GROUP_TOKENS = 200_000;

/** Something that takes episodes one by one and is complete after `finish`. */
interface Sink {
  add(episode: EpisodeDetail): void;
  finish(): void;
  /** Called in any case, at the end. */
  close(): void;
}

/** Writes the files that are named, reading the episodes once. Each file appears complete or not at all. */
export async function writeTrajectories(
  paths: { readonly jsonl?: string; readonly parquet?: string },
  episodes: AsyncIterable<EpisodeDetail>,
  createdBy: string,
): Promise<void> {
  const { jsonl, parquet } = paths;
  const into = async (sinks: readonly Sink[]) => {
    try {
      for await (const episode of episodes) for (const sink of sinks) sink.add(episode);
      for (const sink of sinks) sink.finish();
    } finally {
      for (const sink of sinks) sink.close();
    }
  };
  const withParquet = (others: readonly Sink[]) =>
    parquet === undefined
      ? into(others)
      : writeAtomically(parquet, (partial) => into([...others, parquetSink(partial, createdBy)]));
  if (jsonl === undefined) await withParquet([]);
  else await writeAtomically(jsonl, (partial) => withParquet([jsonlSink(partial)]));
}

/** One JSON object per line, with the columns of the Parquet file. */
function jsonlSink(path: string): Sink {
  const lines = new LineWriter(path);
  return {
    add: (episode) =>
      lines.write(JSON.stringify(Object.fromEntries(COLUMNS.map(({ name, read }) => [name, toJson(read(episode))])))),
    finish: () => lines.finish(),
    close: () => lines.close(),
  };
}

/** Float32 values with nine digits: as few as give the same value back. */
function toJson(value: unknown): unknown {
  if (value instanceof Float32Array) return Array.from(value, (x) => (x === 0 ? 0 : Number(x.toPrecision(9))));
  return ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value;
}

/** A Parquet file compressed with zstd; its metadata hold the meaning of each column. */
function parquetSink(path: string, createdBy: string): Sink {
  const writer = new ParquetWriter({
    writer: fileWriter(path),
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
  return {
    add: (episode) => {
      rows.push(episode);
      tokens += episode.tokens.ids.length;
      if (rows.length >= GROUP_ROWS || tokens >= GROUP_TOKENS) flush();
    },
    finish: () => {
      if (rows.length > 0) flush();
      writer.finish();
    },
    close: () => {},
  };
}

function columnData({ name, read, type }: Column, rows: readonly EpisodeDetail[]) {
  const values = rows.map(read);
  if (type === "INT64") return { name, data: values.map((value) => BigInt(value as number)) };
  if (!type.endsWith("[]")) return { name, data: values };
  // Nobody looks for rows by the smallest token of a list.
  return { name, data: values.map((value) => Array.from(value as Int32Array)), statistics: false };
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
