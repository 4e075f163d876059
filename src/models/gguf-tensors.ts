/** Tensors of a GGUF file under Hugging Face's names and in Hugging Face's order of rows. */

import { AleError } from "../core/errors.ts";
import type { GgufFile, GgufTensor } from "./gguf.ts";
import { BLOCK_TYPES, type BlockType } from "./gguf-blocks.ts";
import { GgufMetadata } from "./gguf-metadata.ts";
import { EMBEDDING, expertNames, FINAL_NORM, HEAD, layerNames } from "./parameters.ts";
import { PIECE, type StoredTensor, type StoredTensors, scratchBytes } from "./stored-tensor.ts";

/** Every tensor of the file under its own name. */
export function ggufTensors(file: GgufFile): ReadonlyMap<string, StoredTensor> {
  return new Map([...file.tensors].map(([name, tensor]) => [name, storedTensor(file, tensor)]));
}

/**
 * The tensors as a decoder of this project names them; stacked experts are taken apart, and the rows of llama's queries and
 * keys, which llama.cpp's converter reorders for another form of rotary positions, are put back in order.
 */
export function openGgufWeights(file: GgufFile): StoredTensors {
  const metadata = new GgufMetadata(file);
  const isLlama = metadata.string("general.architecture") === "llama";
  const tensors = new Map<string, StoredTensor>();
  const add = (tensor: StoredTensor) => tensors.set(tensor.name, tensor);
  for (const tensor of ggufTensors(file).values()) {
    const experts = EXPERTS.exec(tensor.name);
    if (experts !== null) {
      const [, layer, kind] = experts as unknown as [string, string, "gate" | "up" | "down"];
      for (const [expert, part] of slices(tensor).entries())
        add({ ...part, name: expertNames(Number(layer), expert)[kind] });
      continue;
    }
    const name = huggingFaceName(tensor.name);
    if (name === undefined) continue;
    const heads = isLlama ? rotatedHeads(tensor.name, metadata) : undefined;
    add({ ...(heads === undefined ? tensor : inHalves(tensor, heads)), name });
  }
  return { path: file.source.path, tensors };
}

const EXPERTS = /^blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight$/;

const WHOLE_MODEL: Readonly<Record<string, string | undefined>> = {
  "token_embd.weight": EMBEDDING,
  "output_norm.weight": FINAL_NORM,
  "output.weight": HEAD,
  // made from the config
  "rope_freqs.weight": undefined,
};

const LAYER: Readonly<Record<string, keyof ReturnType<typeof layerNames>>> = {
  attn_norm: "attentionNorm",
  attn_q: "query",
  attn_k: "key",
  attn_v: "value",
  attn_output: "output",
  attn_q_norm: "queryNorm",
  attn_k_norm: "keyNorm",
  ffn_norm: "mlpNorm",
  ffn_gate: "gate",
  ffn_up: "up",
  ffn_down: "down",
  ffn_gate_inp: "router",
};

/** The name of a parameter; unknown names stay as they are and are refused where weights are loaded. */
function huggingFaceName(name: string): string | undefined {
  if (Object.hasOwn(WHOLE_MODEL, name)) return WHOLE_MODEL[name];
  const [, layer, part, kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name) ?? [];
  const known = part !== undefined && Object.hasOwn(LAYER, part) ? LAYER[part] : undefined;
  if (known === undefined) return name;
  return layerNames(Number(layer))[known].replace(/weight$/, kind as string);
}

function storedTensor({ source }: GgufFile, tensor: GgufTensor): StoredTensor {
  const { name, shape, offset } = tensor;
  const { path } = source;
  const type = BLOCK_TYPES.get(tensor.type);
  return {
    name,
    path,
    dtype: type?.name ?? `number ${tensor.type}`,
    shape,
    check: () => {
      if (type === undefined) {
        const known = [...BLOCK_TYPES.values()].map((supported) => supported.name).join(", ");
        throw new AleError("model", `${path}: "${name}" has type number ${tensor.type}; supported are ${known}`, {
          hint: "use a Q4_K_M, Q6_K, Q8_0 or F16 file of the model",
        });
      }
      if ((shape.at(-1) ?? 1) % type.elements !== 0) {
        throw new AleError("model", `${path}: "${name}" has rows of ${shape.at(-1)}, no multiple of ${type.elements}`, {
          hint: "copy or download the file again",
        });
      }
    },
    readElements: (begin, target) => {
      const { elements, bytes } = type as BlockType;
      const data = scratchBytes((target.length / elements) * bytes);
      source.read(offset + (begin / elements) * bytes, data);
      (type as BlockType).dequantize(data, new DataView(data.buffer, 0, data.length), target);
    },
  };
}

/** The matrices of a stack [n, rows, columns]. */
function slices(stack: StoredTensor): readonly StoredTensor[] {
  const [count = 0, ...shape] = stack.shape;
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  return Array.from({ length: count }, (_, i) => ({
    ...stack,
    shape,
    readElements: (begin: number, target: Float32Array) => stack.readElements(i * size + begin, target),
  }));
}

/** Heads of a projection whose rows llama.cpp's converter reorders. */
function rotatedHeads(name: string, metadata: GgufMetadata): number | undefined {
  const heads = metadata.requiredNumber("llama.attention.head_count");
  if (/\.attn_q\.(weight|bias)$/.test(name)) return heads;
  if (/\.attn_k\.(weight|bias)$/.test(name)) return metadata.number("llama.attention.head_count_kv") ?? heads;
  return undefined;
}

/**
 * In the file, row 2i + j of a head is what Hugging Face has in row j · half + i: pairs side by side instead of halves. Heads
 * are read whole; a piece may begin and end in the middle of a row.
 */
function inHalves(tensor: StoredTensor, heads: number): StoredTensor {
  const width = tensor.shape[1] ?? 1;
  const headDim = (tensor.shape[0] as number) / heads;
  const fileRow = (row: number): number => {
    const within = row % headDim;
    const half = headDim / 2;
    return row - within + 2 * (within % half) + Math.floor(within / half);
  };
  return {
    ...tensor,
    readElements: (begin, target) => {
      const head = new Float32Array(headDim * width);
      let loaded = -1;
      for (let done = 0; done < target.length; ) {
        const row = Math.floor((begin + done) / width);
        const headIndex = Math.floor(row / headDim);
        if (headIndex !== loaded) {
          readAll(tensor, headIndex * head.length, head);
          loaded = headIndex;
        }
        const from = (begin + done) % width;
        const count = Math.min(width - from, target.length - done);
        const start = (fileRow(row) - headIndex * headDim) * width + from;
        target.set(head.subarray(start, start + count), done);
        done += count;
      }
    },
  };
}

function readAll(tensor: StoredTensor, begin: number, target: Float32Array): void {
  for (let done = 0; done < target.length; done += PIECE) {
    tensor.readElements(begin + done, target.subarray(done, done + PIECE));
  }
}
