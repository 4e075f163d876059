import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  ARCHITECTURES,
  configFromHuggingFace,
  configFromPreset,
  configToHuggingFace,
  type DecoderConfig,
  type ModelType,
} from "./config.ts";
import { ParameterStore } from "./parameter-store.ts";
import { initializeParameters, parameterLayout, parameterView } from "./parameters.ts";
import { ropeFrequencies } from "./rope.ts";
import { parseSafetensors, readSafetensors, writeSafetensors } from "./safetensors.ts";
import { copyTensor } from "./stored-tensor.ts";
import { readOptimizerState, readWeights, writeOptimizerState, writeWeights } from "./weights.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-models-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SHELL = configFromPreset(
  readFileSync(join(import.meta.dir, "../../models/shell.toml"), "utf8"),
  "models/shell.toml",
);
const TINY: DecoderConfig = {
  ...SHELL,
  hiddenSize: 8,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 4,
  intermediateSize: 12,
  vocabularySize: 11,
};

const LLAMA = {
  model_type: "llama",
  vocab_size: 320,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  intermediate_size: 160,
  rms_norm_eps: 1e-5,
  rope_theta: 500_000,
  rope_scaling: {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 64,
  },
  tie_word_embeddings: false,
  max_position_embeddings: 2048,
};

const { rope_scaling: _scaling, ...PLAIN } = LLAMA;
const QWEN2 = { ...PLAIN, model_type: "qwen2", use_sliding_window: false, sliding_window: null, max_window_layers: 2 };
const QWEN3 = {
  ...PLAIN,
  model_type: "qwen3",
  attention_bias: false,
  layer_types: ["full_attention", "full_attention"],
};

describe("config", () => {
  test("the shipped preset is the model of the recipe", () => {
    expect(SHELL).toEqual({
      ...ARCHITECTURES.llama,
      experts: null,
      vocabularySize: 512,
      hiddenSize: 128,
      layers: 4,
      heads: 4,
      kvHeads: 2,
      headDim: 32,
      intermediateSize: 384,
      normEps: 1e-5,
      ropeTheta: 10_000,
      ropeScaling: null,
      tiedEmbeddings: true,
      contextLength: 256,
    });
    expect(parameterLayout(SHELL).parameterCount).toBe(853_120);
  });

  test("Hugging Face's spelling of both generations is read, and written back", () => {
    const config = configFromHuggingFace(LLAMA, "config.json");
    expect(config.ropeScaling?.originalContextLength).toBe(64);
    const { rope_theta, rope_scaling, ...rest } = LLAMA;
    const five = { ...rest, rope_parameters: { ...rope_scaling, rope_theta } };
    expect(configFromHuggingFace(five, "config.json")).toEqual(config);
    expect(configFromHuggingFace(configToHuggingFace(config), "config.json")).toEqual(config);
    const { head_dim, ...withoutHeadDim } = LLAMA;
    expect(configFromHuggingFace(withoutHeadDim, "config.json").headDim).toBe(head_dim);
  });

  test("Qwen2 and Qwen3 are read and written back", () => {
    for (const json of [QWEN2, QWEN3]) {
      const config = configFromHuggingFace(json, "config.json");
      expect(config.modelType).toBe(json.model_type as ModelType);
      expect(configFromHuggingFace(configToHuggingFace(config), "config.json")).toEqual(config);
    }
    const two = configFromHuggingFace(QWEN2, "config.json");
    expect([two.queryKeyValueBias, two.queryKeyNorm, two.headDim]).toEqual([true, false, 16]);
    const three = configFromHuggingFace({ ...QWEN3, head_dim: undefined }, "config.json");
    expect([three.queryKeyValueBias, three.queryKeyNorm, three.headDim]).toEqual([false, true, 128]);
  });

  test.each([
    [{ ...LLAMA, model_type: "gpt2" }, 'config.json: model_type "gpt2" is not supported'],
    [{ ...LLAMA, attention_bias: true }, "attention_bias is not supported"],
    [{ ...LLAMA, rope_scaling: { rope_type: "yarn" } }, 'RoPE type "yarn"'],
    [{ ...LLAMA, rope_scaling: { rope_type: "linear", factor: 2 } }, 'RoPE type "linear"'],
    [{ ...LLAMA, hidden_act: "gelu" }, 'hidden_act "gelu"'],
    [{ ...QWEN2, use_sliding_window: true }, "use_sliding_window is not supported"],
    [{ ...QWEN3, layer_types: ["full_attention", "sliding_attention"] }, 'layer type "sliding_attention"'],
    [{ ...QWEN3, quantization_config: { quant_method: "gptq" } }, "quantised"],
    [{ ...LLAMA, hidden_size: "64" }, 'config.json: hidden_size is "64"; expected a whole number of at least 1'],
    [{ ...LLAMA, vocab_size: undefined }, "config.json: vocab_size is missing; expected a whole number"],
    [null, "config.json is null; expected an object"],
    [[], "config.json is []; expected an object"],
    [{ ...LLAMA, rope_scaling: { rope_type: "llama3", factor: 8 } }, "rope_scaling: low_freq_factor is missing"],
    [{ ...LLAMA, num_key_value_heads: 3 }, "4 heads cannot share 3"],
  ])("what is not supported is refused by name", (json, message) => {
    expect(() => configFromHuggingFace(json, "config.json")).toThrow(message);
  });

  test("a preset with an unknown key, a missing one or broken TOML is refused", () => {
    const preset = readFileSync(join(import.meta.dir, "../../models/shell.toml"), "utf8");
    expect(() => configFromPreset(`${preset}\nhiden = 3`, "a.toml")).toThrow(/a\.toml.*hiden/);
    expect(() => configFromPreset(preset.replace("hidden_size", "# "), "a.toml")).toThrow("a.toml: hidden_size");
    expect(() => configFromPreset("hidden = ", "a.toml")).toThrow("a.toml");
  });

  test("llama3 scaling keeps short wavelengths, slows long ones and blends between", () => {
    const config = configFromHuggingFace(LLAMA, "config.json");
    const scaled = ropeFrequencies(config);
    const plain = ropeFrequencies({ ...config, ropeScaling: null });
    expect(scaled[0]).toBe(plain[0] as number);
    expect(scaled[7]).toBeCloseTo((plain[7] as number) / 8, 15);
    const ratios = [...scaled].map((f, i) => f / (plain[i] as number));
    expect(ratios.some((r) => r > 0.126 && r < 0.999)).toBe(true);
  });
});

describe("parameters", () => {
  test("every tensor starts on a 64-byte boundary and none overlap", () => {
    const layout = parameterLayout({ ...TINY, tiedEmbeddings: false });
    let end = 0;
    for (const entry of layout.entries) {
      expect(entry.offset % 16).toBe(0);
      expect(entry.offset).toBeGreaterThanOrEqual(end);
      end = entry.offset + entry.size;
    }
    expect(layout.length).toBeGreaterThanOrEqual(end);
    expect(layout.entries.at(-1)?.name).toBe("lm_head.weight");
    expect(layout.hash).not.toBe(parameterLayout(TINY).hash);
  });

  test("initial weights have the stated spread and depend on seed and name only", () => {
    const config = { ...SHELL, vocabularySize: 100, layers: 1 };
    const layout = parameterLayout(config);
    const flat = new Float32Array(layout.length);
    initializeParameters(config, layout, flat, 1);
    const deviation = (name: string) => {
      const view = parameterView(layout, flat, name);
      return Math.sqrt(view.reduce((sum, x) => sum + x * x, 0) / view.length);
    };
    expect(deviation("model.embed_tokens.weight")).toBeCloseTo(0.02, 3);
    expect(deviation("model.layers.0.self_attn.q_proj.weight")).toBeCloseTo(128 ** -0.5, 2);
    expect(deviation("model.layers.0.mlp.down_proj.weight")).toBeCloseTo(384 ** -0.5 / Math.sqrt(2), 3);
    expect(deviation("model.norm.weight")).toBe(1);
    const again = parameterView(parameterLayout(TINY), initialTiny(1), "model.layers.1.mlp.up_proj.weight");
    const same = parameterView(parameterLayout(TINY), initialTiny(1), "model.layers.1.mlp.up_proj.weight");
    const other = parameterView(parameterLayout(TINY), initialTiny(2), "model.layers.1.mlp.up_proj.weight");
    expect(again).toEqual(same);
    expect(again[0]).not.toBe(other[0] as number);
  });
});

describe("safetensors", () => {
  const shape = [2, 3];
  const values = Float32Array.from([1.5, -2, 0.25, 1e-3, 65504, -0]);

  function file(dtype: string, data: Uint8Array, dims: readonly number[] = shape): Uint8Array {
    const header = new TextEncoder().encode(
      JSON.stringify({ w: { dtype, shape: dims, data_offsets: [0, data.length] } }),
    );
    const bytes = new Uint8Array(8 + header.length + data.length);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
    bytes.set(header, 8);
    bytes.set(data, 8 + header.length);
    return bytes;
  }

  test("float32, float16, bfloat16 and float64 are widened to the nearest float32", () => {
    const halves = new Float16Array(values);
    const brains = Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
    const cases: [
      string,
      Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer> | Float16Array<ArrayBuffer> | Uint16Array<ArrayBuffer>,
      Float32Array<ArrayBuffer>,
    ][] = [
      ["F32", values, values],
      ["F64", Float64Array.from(values), values],
      ["F16", halves, Float32Array.from(halves)],
      ["BF16", brains, Float32Array.from(values, (x) => truncateToBfloat16(x))],
    ];
    for (const [dtype, data, expected] of cases) {
      const parsed = parseSafetensors(file(dtype, new Uint8Array(data.buffer)), "x.safetensors");
      const target = new Float32Array(6);
      copyTensor(parsed, "w", shape, target);
      expect(target).toEqual(expected);
    }
  });

  test("what is written is read back, with metadata, and leaves no temporary file", () => {
    const path = join(folder, "a.safetensors");
    writeSafetensors(path, [{ name: "w", shape, data: values }], { step: "7" });
    const parsed = readSafetensors(path);
    const target = new Float32Array(6);
    copyTensor(parsed, "w", shape, target);
    expect(target).toEqual(values);
    expect(parsed.metadata.step).toBe("7");
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("every cut and every broken header is an error that names the file", () => {
    const sound = file("F32", new Uint8Array(values.buffer));
    for (let length = 0; length < sound.length; length++) {
      expect(() => parseSafetensors(sound.subarray(0, length), "cut.safetensors")).toThrow("cut.safetensors");
    }
    const broken = sound.slice();
    broken[9] = 0xff;
    expect(() => parseSafetensors(broken, "b.safetensors")).toThrow("its header is not JSON");
    broken.fill(0xff, 0, 8);
    expect(() => parseSafetensors(broken, "b.safetensors")).toThrow("b.safetensors");
    expect(() => readSafetensors(join(folder, "none.safetensors"))).toThrow("none.safetensors");
  });

  test("a missing, misshapen, short or odd tensor is named with what was expected", () => {
    const parsed = parseSafetensors(file("F32", new Uint8Array(values.buffer)), "m.safetensors");
    const target = new Float32Array(6);
    expect(() => copyTensor(parsed, "v", shape, target)).toThrow(
      'm.safetensors has no tensor "v" (expected shape [2,3])',
    );
    expect(() => copyTensor(parsed, "w", [3, 2], target)).toThrow('"w" should have shape [3,2], but has [2,3]');
    const short = parseSafetensors(file("F32", new Uint8Array(20)), "m.safetensors");
    expect(() => copyTensor(short, "w", shape, target)).toThrow("24 bytes, but has 20");
    const integers = parseSafetensors(file("I8", new Uint8Array(6)), "m.safetensors");
    expect(() => copyTensor(integers, "w", shape, target)).toThrow("type I8");
  });

  test("weights survive a round trip; unknown tensors are refused", () => {
    const layout = parameterLayout(TINY);
    const flat = new Float32Array(layout.length);
    initializeParameters(TINY, layout, flat, 3);
    const path = join(folder, "model.safetensors");
    writeWeights(path, layout, flat);
    const again = new Float32Array(layout.length);
    readWeights(readSafetensors(path), layout, again);
    expect(again).toEqual(flat);
    const smaller = parameterLayout({ ...TINY, layers: 1 });
    expect(() => readWeights(readSafetensors(path), smaller, new Float32Array(smaller.length))).toThrow(
      "does not know",
    );
  });
});

describe("parameter store", () => {
  const layout = parameterLayout(TINY);

  test("what is published survives reopening, unpublished work does not count", () => {
    const path = join(folder, "parameters.bin");
    const store = ParameterStore.open(path, layout);
    expect(store.published).toBeNull();
    initializeParameters(TINY, layout, store.parameters(0), 1);
    store.publish(0, 0);
    store.setStep(1, 5);
    store.parameters(1).fill(0.5);
    store.firstMoment(1).fill(0.25);
    store.publish(1, 1);
    store.parameters(2).fill(9);

    const reopened = ParameterStore.open(path, layout);
    expect(reopened.published).toEqual({ slot: 1, version: 1 });
    expect(reopened.step(1)).toBe(5);
    expect(reopened.parameters(1).every((x) => x === 0.5)).toBe(true);
    expect(reopened.firstMoment(1).every((x) => x === 0.25)).toBe(true);
    expect(reopened.secondMoment(1).every((x) => x === 0)).toBe(true);
    store.publish(2, 2);
    expect(reopened.published).toEqual({ slot: 2, version: 2 });
  });

  test("a process killed in the middle of an update leaves the published weights whole", async () => {
    const path = join(folder, "killed.bin");
    const store = ParameterStore.open(path, layout);
    store.parameters(0).fill(1);
    store.firstMoment(0).fill(2);
    store.setStep(0, 7);
    store.publish(0, 7);
    const config = JSON.stringify(TINY);
    const script = `
      const { ParameterStore } = await import(${JSON.stringify(join(import.meta.dir, "parameter-store.ts"))});
      const { parameterLayout } = await import(${JSON.stringify(join(import.meta.dir, "parameters.ts"))});
      const store = ParameterStore.open(${JSON.stringify(path)}, parameterLayout(${config}));
      const target = store.targetFor(store.published.slot);
      store.setStep(target, 8);
      for (let i = 0; ; i++) {
        store.parameters(target).fill(i);
        store.firstMoment(target).fill(i);
        if (i === 100) process.stdout.write("writing");
      }`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    const { value } = await child.stdout.getReader().read();
    expect(new TextDecoder().decode(value)).toBe("writing");
    child.kill("SIGKILL");
    await child.exited;
    const reopened = ParameterStore.open(path, layout);
    expect(reopened.published).toEqual({ slot: 0, version: 7 });
    expect(reopened.step(0)).toBe(7);
    expect(reopened.parameters(0).every((x) => x === 1)).toBe(true);
    expect(reopened.firstMoment(0).every((x) => x === 2)).toBe(true);
    expect(reopened.parameters(1)[0]).toBeGreaterThan(0);
  });

  test("updates alternate between the two unpublished slots", () => {
    const store = ParameterStore.inMemory(layout);
    store.publish(1, 0);
    expect(store.targetFor(1)).toBe(0);
    expect(store.targetFor(0)).toBe(2);
    expect(store.targetFor(2)).toBe(0);
    expect(() => store.setStep(1, 3)).toThrow("published");
    store.parameters(1).fill(2);
    store.copySlot(1, 0);
    expect(store.parameters(0)).toEqual(store.parameters(1));
    expect(() => store.copySlot(0, 1)).toThrow("published");
  });

  test("every version and slot is encoded and decoded", () => {
    const store = ParameterStore.inMemory(layout);
    for (const version of [0, 1, 255, 256, 65_537, 0xffffffff]) {
      for (const slot of [0, 1, 2] as const) {
        store.publish(slot, version);
        expect(store.published).toEqual({ slot, version });
      }
    }
    expect(() => store.publish(0, -1)).toThrow("out of range");
  });

  test("a file of another model, a cut one and a damaged header are refused", () => {
    const path = join(folder, "damaged.bin");
    const store = ParameterStore.open(path, layout);
    store.publish(0, 3);
    const wider = parameterLayout({ ...TINY, tiedEmbeddings: false });
    expect(() => ParameterStore.open(path, wider)).toThrow("damaged.bin");
    const sound = readFileSync(path);
    for (const [offset, message] of [
      [0, "ALEPARAM"],
      [8, "format"],
      [16, "another shape"],
      [32, "publication"],
      [37, "publication"],
    ] as const) {
      const bytes = Uint8Array.from(sound);
      bytes[offset] = (bytes[offset] as number) ^ 0x10;
      const copy = join(folder, `damaged-${offset}.bin`);
      writeFileSync(copy, bytes);
      expect(() => ParameterStore.open(copy, layout)).toThrow(message);
    }
    truncateSync(path, 5000);
    expect(() => ParameterStore.open(path, layout)).toThrow("5000 bytes instead of");
  });

  test("optimizer state goes through a checkpoint file", () => {
    const store = ParameterStore.inMemory(layout);
    store.firstMoment(0).forEach((_, i, m) => {
      m[i] = Math.sin(i);
    });
    store.secondMoment(0).forEach((_, i, v) => {
      v[i] = Math.cos(i) ** 2;
    });
    store.setStep(0, 42);
    const path = join(folder, "optimizer.safetensors");
    writeOptimizerState(path, store, 0);
    readOptimizerState(path, store, 1);
    expect(store.step(1)).toBe(42);
    for (const { name } of layout.entries) {
      expect(parameterView(layout, store.firstMoment(1), name)).toEqual(
        parameterView(layout, store.firstMoment(0), name),
      );
      expect(parameterView(layout, store.secondMoment(1), name)).toEqual(
        parameterView(layout, store.secondMoment(0), name),
      );
    }
    const other = ParameterStore.inMemory(parameterLayout({ ...TINY, hiddenSize: 16 }));
    expect(() => readOptimizerState(path, other, 0)).toThrow("should have shape");
  });
});

function initialTiny(seed: number): Float32Array {
  const layout = parameterLayout(TINY);
  const flat = new Float32Array(layout.length);
  initializeParameters(TINY, layout, flat, seed);
  return flat;
}

function truncateToBfloat16(x: number): number {
  const words = new Uint32Array(Float32Array.of(x).buffer);
  words[0] = (words[0] as number) & 0xffff0000;
  return new Float32Array(words.buffer)[0] as number;
}
