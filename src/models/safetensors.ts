/**
 * The safetensors format: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, raw little-endian data.
 * https://huggingface.co/docs/safetensors
 */

import { z } from "zod";
import { AleError } from "../core/errors.ts";
import { type ByteSource, fileSource, memorySource } from "./byte-source.ts";
import { writeDurably } from "./durable-files.ts";
import { BYTES_PER_ELEMENT, type FloatType, isFloatType, widen } from "./float-types.ts";
import { PIECE, type StoredTensor, type StoredTensors, scratchBytes } from "./stored-tensor.ts";

const EntrySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.number().int().min(0)),
  data_offsets: z.tuple([z.number().int().min(0), z.number().int().min(0)]),
});
const HeaderSchema = z.record(z.string(), z.unknown());
const MetadataSchema = z.record(z.string(), z.string());

/** The format allows 100 MB of header; anything larger is a broken file. */
const MAX_HEADER_BYTES = 100_000_000;

export interface SafetensorsTensor extends StoredTensor {
  /** First byte of its data in the file, and the number of its bytes. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface SafetensorsFile extends StoredTensors {
  readonly source: ByteSource;
  readonly metadata: Readonly<Record<string, string>>;
  /** Everything before the data, as it is in the file. */
  readonly header: Uint8Array;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
}

/**
 * Opens a file and checks its header; the data stays on disk.
 * @throws AleError("model") naming the file when it is missing, too short or its header is damaged.
 */
export function readSafetensors(path: string): SafetensorsFile {
  return openSafetensors(fileSource(path));
}

/** As `readSafetensors`, from bytes; `path` is for messages. */
export function parseSafetensors(bytes: Uint8Array, path: string): SafetensorsFile {
  return openSafetensors(memorySource(path, bytes));
}

/** As `readSafetensors`, from any source. */
export function openSafetensors(source: ByteSource): SafetensorsFile {
  const { path } = source;
  const damaged = (why: string): never => {
    throw new AleError("model", `${path} is not a sound safetensors file: ${why}`, {
      hint: "copy or download the file again",
    });
  };
  if (source.size < 8) damaged(`it has ${source.size} bytes`);
  const prefix = new Uint8Array(8);
  source.read(0, prefix);
  const dataStart = 8 + Number(new DataView(prefix.buffer).getBigUint64(0, true));
  if (dataStart > MAX_HEADER_BYTES || dataStart > source.size) {
    damaged(`its header claims ${dataStart - 8} bytes, the file has ${source.size}`);
  }
  const header = new Uint8Array(dataStart);
  source.read(0, header);
  const tensors = new Map<string, SafetensorsTensor>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(parseHeader(header.subarray(8), damaged))) {
    if (name === "__metadata__") {
      const parsed = MetadataSchema.safeParse(value);
      metadata = parsed.success ? parsed.data : damaged("its metadata is not text");
      continue;
    }
    const parsed = EntrySchema.safeParse(value);
    const { dtype, shape, data_offsets } = parsed.data ?? damaged(`the header entry of "${name}" is malformed`);
    const [begin, end] = data_offsets;
    const dataBytes = source.size - dataStart;
    if (begin > end || end > dataBytes) {
      damaged(`"${name}" lies at ${begin}–${end}, but there are ${dataBytes} bytes of data`);
    }
    tensors.set(name, storedTensor(source, { name, dtype, shape }, dataStart + begin, end - begin));
  }
  return { path, source, metadata, header, tensors };
}

function parseHeader(bytes: Uint8Array, damaged: (why: string) => never): Record<string, unknown> {
  try {
    return HeaderSchema.parse(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
  } catch {
    return damaged("its header is not JSON");
  }
}

function storedTensor(
  source: ByteSource,
  entry: Pick<StoredTensor, "name" | "dtype" | "shape">,
  offset: number,
  byteLength: number,
): SafetensorsTensor {
  const { name, dtype, shape } = entry;
  const { path } = source;
  return {
    ...entry,
    path,
    offset,
    byteLength,
    check: () => {
      if (!isFloatType(dtype)) {
        const supported = Object.keys(BYTES_PER_ELEMENT).join(", ");
        throw new AleError("model", `${path}: "${name}" has type ${dtype}; supported are ${supported}`, {
          hint: "use the model's float32, float16 or bfloat16 version",
        });
      }
      const expected = shape.reduce((product, size) => product * size, BYTES_PER_ELEMENT[dtype]);
      if (byteLength !== expected) {
        throw new AleError("model", `${path}: "${name}" should have ${expected} bytes, but has ${byteLength}`, {
          hint: "copy or download the file again",
        });
      }
    },
    readElements: (begin, target) => readElements(source, dtype as FloatType, offset, begin, target),
  };
}

function readElements(source: ByteSource, type: FloatType, offset: number, begin: number, target: Float32Array): void {
  const start = offset + begin * BYTES_PER_ELEMENT[type];
  if (type === "F32") {
    source.read(start, new Uint8Array(target.buffer, target.byteOffset, target.byteLength));
    return;
  }
  const bytes = scratchBytes(target.length * BYTES_PER_ELEMENT[type]);
  source.read(start, bytes);
  widen(type, bytes, target);
}

export interface OutputTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/**
 * Writes float32 tensors; the file appears under its name only when it is complete and on disk.
 * @throws AleError("storage_full") when it cannot be written.
 */
export function writeSafetensors(
  path: string,
  tensors: readonly OutputTensor[],
  metadata: Readonly<Record<string, string>> = {},
): void {
  const entries = tensors.map(({ name, shape }) => ({ name, shape, dtype: "F32" as const }));
  const data = tensors.map(
    (tensor) => new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength),
  );
  writeDurably(path, [encodeHeader(entries, { format: "pt", ...metadata }), ...data]);
}

export interface HeaderEntry {
  readonly name: string;
  readonly dtype: FloatType;
  readonly shape: readonly number[];
}

/** The header of a file whose tensors follow each other in this order, with its length in front; padded to 8 bytes. */
export function encodeHeader(entries: readonly HeaderEntry[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const { name, dtype, shape } of entries) {
    const end = shape.reduce((product, size) => product * size, BYTES_PER_ELEMENT[dtype]) + offset;
    header[name] = { dtype, shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(padded.buffer).setBigUint64(0, BigInt(padded.length - 8), true);
  padded.set(json, 8);
  return padded;
}

/** The tensor's bytes as they are in the file, a piece at a time. */
export function* rawBytes(file: SafetensorsFile, tensor: SafetensorsTensor): Generator<Uint8Array> {
  for (let begin = 0; begin < tensor.byteLength; begin += PIECE) {
    const bytes = new Uint8Array(Math.min(PIECE, tensor.byteLength - begin));
    file.source.read(tensor.offset + begin, bytes);
    yield bytes;
  }
}
