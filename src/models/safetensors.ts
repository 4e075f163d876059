/**
 * The safetensors format: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, raw little-endian data.
 * https://huggingface.co/docs/safetensors
 */

import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";

const BYTES_PER_ELEMENT = { F32: 4, F16: 2, BF16: 2, F64: 8 } as const;
type FloatType = keyof typeof BYTES_PER_ELEMENT;

const EntrySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.number().int().min(0)),
  data_offsets: z.tuple([z.number().int().min(0), z.number().int().min(0)]),
});
const HeaderSchema = z.record(z.string(), z.unknown());
const MetadataSchema = z.record(z.string(), z.string());

/** The format allows 100 MB of header; anything larger is a broken file. */
const MAX_HEADER_BYTES = 100_000_000;

export interface SafetensorsTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** The raw elements. */
  readonly data: Uint8Array;
}

export interface SafetensorsFile {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
}

/**
 * Reads a file whole and checks its header.
 * @throws AleError("model") naming the file when it is missing, too short or its header is damaged.
 */
export function readSafetensors(path: string): SafetensorsFile {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new AleError("model", `cannot read ${path}: ${errorMessage(error)}`, { cause: error });
  }
  return parseSafetensors(bytes, path);
}

/** As `readSafetensors`, from bytes; `path` is for messages. */
export function parseSafetensors(bytes: Uint8Array, path: string): SafetensorsFile {
  const damaged = (why: string): never => {
    throw new AleError("model", `${path} is not a sound safetensors file: ${why}`, {
      hint: "copy or download the file again",
    });
  };
  if (bytes.length < 8) damaged(`it has ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerLength = Number(view.getBigUint64(0, true));
  if (headerLength > MAX_HEADER_BYTES || 8 + headerLength > bytes.length) {
    damaged(`its header claims ${headerLength} bytes, the file has ${bytes.length}`);
  }
  const header = parseHeader(bytes.subarray(8, 8 + headerLength), damaged);
  const data = bytes.subarray(8 + headerLength);
  const tensors = new Map<string, SafetensorsTensor>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") {
      const parsed = MetadataSchema.safeParse(value);
      metadata = parsed.success ? parsed.data : damaged("its metadata is not text");
      continue;
    }
    const parsed = EntrySchema.safeParse(value);
    const entry = parsed.success ? parsed.data : damaged(`the header entry of "${name}" is malformed`);
    const [begin, end] = entry.data_offsets;
    if (begin > end || end > data.length) {
      damaged(`"${name}" lies at ${begin}–${end}, but there are ${data.length} bytes of data`);
    }
    tensors.set(name, { name, dtype: entry.dtype, shape: entry.shape, data: data.subarray(begin, end) });
  }
  return { path, metadata, tensors };
}

function parseHeader(bytes: Uint8Array, damaged: (why: string) => never): Record<string, unknown> {
  try {
    return HeaderSchema.parse(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
  } catch {
    return damaged("its header is not JSON");
  }
}

/**
 * Writes the elements of a tensor into `target` as float32.
 * @throws AleError("model") naming file, tensor, expected and found shape or type.
 */
export function copyTensor(file: SafetensorsFile, name: string, shape: readonly number[], target: Float32Array): void {
  const tensor = file.tensors.get(name);
  if (tensor === undefined) {
    throw new AleError("model", `${file.path} has no tensor "${name}" (expected shape [${shape}])`, {
      hint: "config.json and weights must be of the same model",
    });
  }
  if (tensor.shape.length !== shape.length || tensor.shape.some((dimension, i) => dimension !== shape[i])) {
    throw new AleError("model", `${file.path}: "${name}" should have shape [${shape}], but has [${tensor.shape}]`, {
      hint: "config.json and weights must be of the same model",
    });
  }
  if (!(tensor.dtype in BYTES_PER_ELEMENT)) {
    throw new AleError("model", `${file.path}: "${name}" has type ${tensor.dtype}; supported are F32, F16, BF16, F64`);
  }
  const dtype = tensor.dtype as FloatType;
  if (tensor.data.length !== target.length * BYTES_PER_ELEMENT[dtype]) {
    throw new AleError(
      "model",
      `${file.path}: "${name}" should have ${target.length * BYTES_PER_ELEMENT[dtype]} bytes, but has ${tensor.data.length}`,
      { hint: "copy or download the file again" },
    );
  }
  widen(dtype, tensor.data, target);
}

/** Converts little-endian elements to float32; copies first, as tensors need not be aligned in the file. */
function widen(dtype: FloatType, data: Uint8Array, target: Float32Array): void {
  const bytes = new Uint8Array(data);
  switch (dtype) {
    case "F32":
      target.set(new Float32Array(bytes.buffer));
      return;
    case "F64":
      target.set(new Float64Array(bytes.buffer));
      return;
    case "F16":
      target.set(new Float16Array(bytes.buffer));
      return;
    case "BF16": {
      const bits = new Uint16Array(bytes.buffer);
      const words = new Uint32Array(target.buffer, target.byteOffset, target.length);
      for (let i = 0; i < bits.length; i++) words[i] = (bits[i] as number) << 16;
    }
  }
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
  const header: Record<string, unknown> = { __metadata__: { format: "pt", ...metadata } };
  let offset = 0;
  for (const { name, shape, data } of tensors) {
    header[name] = { dtype: "F32", shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(padded.buffer).setBigUint64(0, BigInt(padded.length - 8), true);
  padded.set(json, 8);
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const file = openSync(temporary, "w");
    try {
      writeAll(file, padded);
      for (const { data } of tensors) writeAll(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new AleError("storage_full", `cannot write ${path}: ${errorMessage(error)}`, { cause: error });
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}
