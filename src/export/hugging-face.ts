/**
 * Weights as a Hugging Face folder: the same files, shards, names and element types as the folder the model came from, with
 * the weights of a policy in them. A weight that training left alone comes out byte by byte as it was.
 */

import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { writeDurably } from "../models/durable-files.ts";
import { BYTES_PER_ELEMENT, type FloatType, isFloatType, narrow, TORCH_NAMES } from "../models/float-types.ts";
import { adaptersFor, mergeAdapters } from "../models/lora.ts";
import { EMBEDDING, HEAD, type ParameterLayout, parameterLayout, parameterView } from "../models/parameters.ts";
import { readAdapterConfig, readAdapterWeights } from "../models/peft.ts";
import { openPolicyFolder, type PolicyFolder } from "../models/policy-folder.ts";
import {
  encodeHeader,
  type HeaderEntry,
  rawBytes,
  type SafetensorsFile,
  type SafetensorsTensor,
} from "../models/safetensors.ts";
import { INDEX_FILE, openShards, SINGLE_FILE } from "../models/shards.ts";
import { findTensor, PIECE, type StoredTensor, type StoredTensors } from "../models/stored-tensor.ts";
import { readFolderWeights, readWeights } from "../models/weights.ts";
import { makeFolder } from "./files.ts";

export interface ModelExport {
  /** Policy folder or GGUF file with the weights. */
  readonly model: string;
  /** PEFT folder to merge into them. */
  readonly adapter?: string | undefined;
  /** Folder whose files, shards and element types are followed; `model` itself, or what it was trained from. */
  readonly like: string;
  /** Element type of all weights; each keeps its own when omitted. */
  readonly dtype?: FloatType | undefined;
}

/** What is copied as it is. */
const TEXT_FILES = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "vocab.json",
  "merges.txt",
  "LICENSE",
];

/** A file to be written; its parts are made while it is written. */
interface OutputFile {
  readonly name: string;
  readonly parts: Iterable<Uint8Array | string>;
}

/**
 * Writes the folder `target`. Weights pass through memory a piece at a time, except those that adapters are merged into.
 * @returns names of the files. @throws AleError("model") when policy and reference are of different shapes or a weight does
 * not fit the element type, AleError("storage_full") when the disk cannot hold the files.
 */
export function writeHuggingFaceFolder(
  target: string,
  { model, adapter, like, dtype }: ModelExport,
): readonly string[] {
  const reference = openPolicyFolder(like);
  const policy = openPolicyFolder(model);
  const layout = parameterLayout(
    configFromHuggingFace(reference.readJson("config.json"), `${reference.location}/config.json`),
  );
  const values = adapter === undefined ? readFolderWeights(policy) : mergedWeights(policy, adapter);
  for (const { name, shape } of layout.entries) findTensor(values, name, shape);
  makeFolder(target);
  const weights =
    reference.gguf === undefined ? shardFiles(reference, layout, values, dtype) : [singleFile(layout, values, dtype)];
  const files = [...textFiles(reference, policy, dtype), ...weights];
  for (const { name, parts } of files) writeDurably(join(target, name), parts);
  return files.map(({ name }) => name);
}

function mergedWeights(policy: PolicyFolder, adapter: string): StoredTensors {
  const config = configFromHuggingFace(policy.readJson("config.json"), `${policy.location}/config.json`);
  const layout = parameterLayout(config);
  const flat = new Float32Array(layout.length);
  readWeights(readFolderWeights(policy), layout, flat);
  const folder = openPolicyFolder(adapter);
  const adapters = adaptersFor(config, readAdapterConfig(folder).lora);
  const matrices = new Float32Array(adapters.layout.length);
  readAdapterWeights(folder, adapters, matrices);
  mergeAdapters(adapters, matrices, { layout, flat });
  const tensors = layout.entries.map(({ name, shape }): [string, StoredTensor] => {
    const view = parameterView(layout, flat, name);
    const readElements = (begin: number, piece: Float32Array) => piece.set(view.subarray(begin, begin + piece.length));
    return [name, { name, path: folder.location, dtype: "F32", shape, check: () => undefined, readElements }];
  });
  return { path: folder.location, tensors: new Map(tensors) };
}

function* textFiles(
  reference: PolicyFolder,
  policy: PolicyFolder,
  dtype: FloatType | undefined,
): Generator<OutputFile> {
  yield { name: "config.json", parts: [configBytes(reference, dtype)] };
  for (const name of TEXT_FILES) {
    const folder = [reference, policy].find((candidate) => candidate.has(name));
    if (folder !== undefined) yield { name, parts: [folder.read(name)] };
  }
}

/** The reference's own config, with the chosen type under the key it uses for it. */
function configBytes(reference: PolicyFolder, dtype: FloatType | undefined): Uint8Array | string {
  if (dtype === undefined) return reference.read("config.json");
  const config = reference.readJson("config.json");
  const key = "dtype" in config ? "dtype" : "torch_dtype";
  return `${JSON.stringify({ ...config, [key]: TORCH_NAMES[dtype] }, null, 2)}\n`;
}

/** The files of the reference, each with the same tensors in the same order. */
function shardFiles(
  reference: PolicyFolder,
  layout: ParameterLayout,
  values: StoredTensors,
  dtype: FloatType | undefined,
): readonly OutputFile[] {
  const shards = openShards(reference);
  const embedding = shards.tensors.get(EMBEDDING) as SafetensorsTensor;
  const plans = shards.files.map((file) => {
    const tensors = [...file.tensors.values()].sort((a, b) => a.offset - b.offset);
    const parts = tensors.map((tensor): Part => {
      const isParameter = layout.byName.has(tensor.name);
      const isTiedHead = tensor.name === HEAD && !isParameter && sameBytes(shards.files, tensor, embedding);
      const name = isTiedHead ? EMBEDDING : isParameter ? tensor.name : undefined;
      if (name === undefined) return { entry: entryOf(tensor), copyOf: tensor };
      const entry = { name: tensor.name, shape: tensor.shape, dtype: dtype ?? entryOf(tensor).dtype };
      return { entry, value: values.tensors.get(name) as StoredTensor };
    });
    return { file, parts };
  });
  const outputs = plans.map(({ file, parts }) => ({
    name: file.path.slice(file.path.lastIndexOf("/") + 1),
    parts: fileParts(file, parts, dtype),
  }));
  if (!reference.has(INDEX_FILE)) return outputs;
  const total = plans.flatMap(({ parts }) => parts).reduce((sum, { entry }) => sum + byteLength(entry), 0);
  return [...outputs, { name: INDEX_FILE, parts: [indexBytes(reference, dtype, total)] }];
}

/** One tensor of an output file: new values, or the bytes of the reference. */
interface Part {
  readonly entry: HeaderEntry;
  readonly value?: StoredTensor;
  readonly copyOf?: SafetensorsTensor;
}

function entryOf({ name, dtype, shape, path }: SafetensorsTensor): HeaderEntry {
  if (isFloatType(dtype)) return { name, dtype, shape };
  throw new AleError("model", `${path}: "${name}" has type ${dtype}, which cannot be written`, {
    hint: "export from the model's float32, float16 or bfloat16 folder with --like",
  });
}

function byteLength({ dtype, shape }: HeaderEntry): number {
  return shape.reduce((product, size) => product * size, BYTES_PER_ELEMENT[dtype]);
}

function* fileParts(
  file: SafetensorsFile,
  parts: readonly Part[],
  dtype: FloatType | undefined,
): Generator<Uint8Array> {
  const dense = parts.reduce((sum, { entry }) => sum + byteLength(entry), file.header.length) === file.source.size;
  const entries = parts.map(({ entry }) => entry);
  yield dtype === undefined && dense ? file.header : encodeHeader(entries, file.metadata);
  for (const { entry, value, copyOf } of parts) {
    if (copyOf !== undefined) yield* rawBytes(file, copyOf);
    else yield* elementBytes(value as StoredTensor, entry);
  }
}

function indexBytes(reference: PolicyFolder, dtype: FloatType | undefined, total: number): Uint8Array | string {
  if (dtype === undefined) return reference.read(INDEX_FILE);
  const index = reference.readJson(INDEX_FILE);
  const metadata = { ...(index.metadata as Record<string, unknown> | undefined), total_size: total };
  return `${JSON.stringify({ ...index, metadata }, null, 2)}\n`;
}

/** Where there is no safetensors file to follow: all parameters in one, float32 unless another type is asked for. */
function singleFile(layout: ParameterLayout, values: StoredTensors, dtype: FloatType = "F32"): OutputFile {
  const entries = layout.entries.map(({ name, shape }) => ({ name, shape, dtype }));
  function* parts(): Generator<Uint8Array> {
    yield encodeHeader(entries, { format: "pt" });
    for (const entry of entries) yield* elementBytes(values.tensors.get(entry.name) as StoredTensor, entry);
  }
  return { name: SINGLE_FILE, parts: parts() };
}

/** Largest float16, and what is rounded to it. */
const HALF_LIMIT = 65_520;

/** @throws AleError("model") for a value that a float16 cannot hold. */
function* elementBytes(value: StoredTensor, { name, dtype, shape }: HeaderEntry): Generator<Uint8Array> {
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  for (let begin = 0; begin < size; begin += PIECE) {
    const piece = new Float32Array(Math.min(PIECE, size - begin));
    value.readElements(begin, piece);
    if (dtype === "F16" && piece.some((element) => Math.abs(element) >= HALF_LIMIT)) {
      throw new AleError("model", `${value.path}: "${name}" holds numbers too large for float16`, {
        hint: "export with --dtype bfloat16 or float32",
      });
    }
    const bytes = new Uint8Array(piece.length * BYTES_PER_ELEMENT[dtype]);
    narrow(dtype, piece, bytes);
    yield bytes;
  }
}

/** Whether two tensors of the shards are the same to the byte, as a tied head and its embedding are. */
function sameBytes(files: readonly SafetensorsFile[], a: SafetensorsTensor, b: SafetensorsTensor): boolean {
  if (a.dtype !== b.dtype || a.byteLength !== b.byteLength) return false;
  const bytesOf = (tensor: SafetensorsTensor) =>
    rawBytes(files.find(({ path }) => path === tensor.path) as SafetensorsFile, tensor);
  const other = bytesOf(b);
  for (const piece of bytesOf(a)) {
    if (Buffer.compare(piece, other.next().value as Uint8Array) !== 0) return false;
  }
  return true;
}
