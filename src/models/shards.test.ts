import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Rng } from "../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "./config.ts";
import { BYTES_PER_ELEMENT, type FloatType, narrow, widen } from "./float-types.ts";
import { parameterLayout, parameterView } from "./parameters.ts";
import { openPolicyFolder } from "./policy-folder.ts";
import { encodeHeader } from "./safetensors.ts";
import { PIECE } from "./stored-tensor.ts";
import { readFolderWeights, readWeights } from "./weights.ts";

const root = mkdtempSync(join(tmpdir(), "ale-shards-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.qwen2,
  vocabularySize: 11,
  hiddenSize: 6,
  layers: 2,
  heads: 3,
  kvHeads: 1,
  headDim: 2,
  intermediateSize: 5,
  normEps: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 32,
  experts: null,
};
const INDEX = "model.safetensors.index.json";
const TYPES: readonly FloatType[] = ["F32", "F16", "BF16", "F64"];

interface Stored {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: FloatType;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** A tensor of random numbers as they are in a file. */
function random(rng: Rng, name: string, shape: readonly number[], dtype: FloatType): Stored {
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  const bytes = new Uint8Array(size * BYTES_PER_ELEMENT[dtype]);
  narrow(
    dtype,
    Float32Array.from({ length: size }, () => rng.normal()),
    bytes,
  );
  return { name, shape, dtype, bytes };
}

function fileOf(tensors: readonly Stored[]): Buffer {
  return Buffer.concat([encodeHeader(tensors, { format: "pt" }), ...tensors.map(({ bytes }) => bytes)]);
}

/** Writes a folder with these shards and their index; returns its path. */
function writeFolder(name: string, shards: readonly (readonly Stored[])[], map: Record<string, string> = {}): string {
  const folder = join(root, name);
  mkdirSync(folder);
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    writeFileSync(join(folder, shardName(i)), fileOf(shard));
    for (const tensor of shard) weightMap[tensor.name] = shardName(i);
  }
  writeFileSync(join(folder, INDEX), JSON.stringify({ metadata: {}, weight_map: { ...weightMap, ...map } }));
  return folder;
}

const shardName = (shard: number) => `model-${shard + 1}.safetensors`;

function load(folder: string, config = CONFIG): Float32Array {
  const layout = parameterLayout(config);
  const flat = new Float32Array(layout.length);
  readWeights(readFolderWeights(openPolicyFolder(folder)), layout, flat);
  return flat;
}

function tensorsOf(config: DecoderConfig, label: string): Stored[] {
  const rng = new Rng(label);
  return parameterLayout(config).entries.map(({ name, shape }) => random(rng, name, shape, rng.pick(TYPES)));
}

describe("weights in shards", () => {
  test("any split into files, any order and any mix of types gives the same weights", () => {
    const layout = parameterLayout(CONFIG);
    for (let trial = 0; trial < 25; trial++) {
      const rng = new Rng(`split ${trial}`);
      const tensors = tensorsOf(CONFIG, `weights ${trial}`);
      const shards: Stored[][] = Array.from({ length: rng.int(1, 6) }, () => []);
      for (const tensor of rng.shuffle(tensors)) rng.pick(shards).push(tensor);
      const used = shards.filter((shard) => shard.length > 0);
      const flat = load(writeFolder(`split-${trial}`, used));
      for (const { name, dtype, bytes, shape } of tensors) {
        const expected = new Float32Array(shape.reduce((product, dimension) => product * dimension, 1));
        widen(dtype, bytes, expected);
        expect(parameterView(layout, flat, name)).toEqual(expected);
      }
    }
  });

  test("a tensor of several pieces is read in one piece after the other, and its last one whole", () => {
    const config = { ...CONFIG, vocabularySize: Math.ceil((2.3 * PIECE) / CONFIG.hiddenSize) };
    const tensors = tensorsOf(config, "large");
    const flat = load(writeFolder("large", [tensors]), config);
    const [embedding] = tensors as [Stored];
    const expected = new Float32Array(config.vocabularySize * config.hiddenSize);
    widen(embedding.dtype, embedding.bytes, expected);
    expect(Buffer.compare(Buffer.from(flat.buffer, 0, expected.byteLength), Buffer.from(expected.buffer))).toBe(0);
  });

  test("a tied model may store its head, an untied one must", () => {
    const tensors = tensorsOf(CONFIG, "tied");
    const head = random(new Rng("head"), "lm_head.weight", [11, 6], "F16");
    const with_ = load(writeFolder("tied-with-head", [[...tensors, head]]));
    expect(with_).toEqual(load(writeFolder("tied", [tensors])));
    const untied = { ...CONFIG, tiedEmbeddings: false };
    expect(() => load(join(root, "tied"), untied)).toThrow('has no tensor "lm_head.weight" (expected shape [11,6])');
    expect(
      parameterView(parameterLayout(untied), load(join(root, "tied-with-head"), untied), "lm_head.weight"),
    ).toEqual(Float32Array.from(new Float16Array(head.bytes.buffer)));
  });
});

describe("what does not fit is named", () => {
  const sound = tensorsOf(CONFIG, "sound");
  const half = Math.floor(sound.length / 2);
  const norm = "model.norm.weight";
  const split = () => [sound.slice(0, half), sound.slice(half)] as const;
  const swap = (name: string, tensor: Partial<Stored>) => sound.map((t) => (t.name === name ? { ...t, ...tensor } : t));

  test("missing and cut shards", () => {
    const folder = writeFolder("missing", split());
    const second = join(folder, shardName(1));
    const bytes = readFileSync(second);
    truncateSync(second, bytes.length - 1);
    expect(() => load(folder)).toThrow(/model-2\.safetensors is not a sound safetensors file: ".*" lies at/);
    rmSync(second);
    expect(() => load(folder)).toThrow(/has no model-2\.safetensors, which .*index\.json lists/);
  });

  test.each<[string, () => string, RegExp]>([
    [
      "a tensor in no file",
      () => writeFolder("gone", [sound.filter((t) => t.name !== norm)]),
      /index\.json has no tensor "model\.norm\.weight" \(expected shape \[6\]\)/,
    ],
    [
      "another shape",
      () => writeFolder("shape", [swap(norm, random(new Rng("x"), norm, [3, 2], "F16"))]),
      /model-1\.safetensors: "model\.norm\.weight" should have shape \[6\], but has \[3,2\]/,
    ],
    [
      "a tensor nobody asked for",
      () => writeFolder("more", [[...sound, random(new Rng("x"), "model.extra", [2], "F32")]]),
      /model-1\.safetensors has a tensor "model\.extra"/,
    ],
    [
      "NaN",
      () =>
        writeFolder("nan", [
          swap(norm, { dtype: "F32", bytes: new Uint8Array(Float32Array.of(1, 2, Number.NaN, 4, 5, 6).buffer) }),
        ]),
      /model-1\.safetensors: element 2 of "model\.norm\.weight" is NaN/,
    ],
    [
      "infinity",
      () =>
        writeFolder("inf", [
          swap(norm, { dtype: "BF16", bytes: new Uint8Array(Uint16Array.of(0, 0, 0, 0, 0, 0xff80).buffer) }),
        ]),
      /element 5 of "model\.norm\.weight" is -Infinity/,
    ],
    [
      "another file in the index",
      () => writeFolder("placed", split(), { [norm]: shardName(0) }),
      /index\.json does not fit its files: it places "model\.norm\.weight" in model-1\.safetensors, which does not hold it/,
    ],
    [
      "a tensor the index does not list",
      () => writeFolder("listed", split(), { [norm]: undefined as unknown as string }),
      /it does not place "model\.norm\.weight" in model-2\.safetensors/,
    ],
    [
      "a file outside the folder",
      () => writeFolder("outside", split(), { [norm]: "../x.safetensors" }),
      /"\.\.\/x\.safetensors" is not the name of a file/,
    ],
  ])("%s", (_, folder, message) => {
    expect(() => load(folder())).toThrow(message);
  });

  test("an index without a map, and a folder without weights", () => {
    const folder = writeFolder("map", []);
    writeFileSync(join(folder, INDEX), "{}");
    expect(() => load(folder)).toThrow(/index\.json does not fit its files: it has no weight_map/);
    rmSync(join(folder, INDEX));
    expect(() => load(folder)).toThrow(/has no model\.safetensors/);
  });
});

describe("element types", () => {
  test("every float16 and bfloat16 that is a number comes back bit by bit", () => {
    const bits = Uint16Array.from({ length: 65_536 }, (_, i) => i);
    for (const type of ["F16", "BF16"] as const) {
      const values = new Float32Array(65_536);
      widen(type, new Uint8Array(bits.buffer), values);
      const back = new Uint8Array(bits.byteLength);
      narrow(type, values, back);
      const again = new Uint16Array(back.buffer);
      expect(again.every((word, i) => Number.isNaN(values[i]) || word === i)).toBe(true);
    }
  });

  test("narrowing to bfloat16 rounds to nearest, ties to even", () => {
    const cases = [
      [0x3f80_7fff, 0x3f80],
      [0x3f80_8000, 0x3f80],
      [0x3f81_8000, 0x3f82],
      [0x3f80_8001, 0x3f81],
      [0xbfff_ffff, 0xc000],
    ] as const;
    const values = new Float32Array(Uint32Array.from(cases, ([word]) => word).buffer);
    const target = new Uint8Array(2 * cases.length);
    narrow("BF16", values, target);
    expect([...new Uint16Array(target.buffer)]).toEqual(cases.map(([, expected]) => expected));
  });
});

test("a run's directory given for a policy names the policy in it", () => {
  const run = mkdtempSync(join(tmpdir(), "ale-run-"));
  try {
    mkdirSync(join(run, "policy"));
    writeFileSync(join(run, "policy", "config.json"), "{}");
    expect(() => openPolicyFolder(run).readJson("config.json")).toThrow(
      expect.objectContaining({ message: `${run} has no config.json`, hint: expect.stringContaining(`${run}/policy`) }),
    );
  } finally {
    rmSync(run, { recursive: true, force: true });
  }
});
