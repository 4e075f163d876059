/**
 * The operator ale::BlockProduct (`kernels/block-products.c`): products with block-wise quantised matrices. ONNX Runtime's
 * MatMulNBits computes the same where it has no instructions; see docs/adr/0029-own-products-of-quantised-weights.md.
 */

import { dlopen, type Pointer } from "bun:ffi";
import { AleError } from "../core/errors.ts";
import type { Attributes } from "../onnx/model.ts";
import { addressOf, type NativeArray } from "./memory.ts";
import { ownOperators } from "./own-operators.ts";

/** A matrix of `rows` × `columns` weights with one scale per `block` neighbours of a row. */
export interface BlockShape {
  readonly rows: number;
  readonly columns: number;
  readonly bits: 4 | 8;
  readonly block: number;
}

/** Sets of instructions by the operator's attribute `instructions`; results have the same bits with each. */
const INSTRUCTIONS = { avx2: 2, vnni: 512 } as const;
export type Instructions = keyof typeof INSTRUCTIONS;

export interface BlockProducts {
  /** What the processor can do, best last. */
  readonly instructions: readonly Instructions[];
  /** `OwnOperators.domain`. */
  readonly domain: number;
  /** The best of them for such a matrix, if any are. */
  instructionsFor(shape: Pick<BlockShape, "bits">): Instructions | undefined;
  /** Size of a packed matrix. */
  packedBytes(shape: BlockShape): number;
  /**
   * Packs codes [rows, blocks, block · bits / 8] and scales [rows, blocks], as `QuantizedMatrix` has them, into `target` of
   * `packedBytes` bytes.
   */
  pack(shape: BlockShape, codes: Uint8Array, scales: Float32Array, target: Uint8Array): void;
}

const SYMBOLS = {
  ale_products_instructions: { args: [], returns: "i32" },
  ale_products_packed_bytes: { args: ["i64", "i64", "i64", "i64"], returns: "i64" },
  ale_products_pack: { args: ["ptr", "ptr", "i64", "i64", "i64", "i64", "ptr"], returns: "void" },
} as const;

let loaded: BlockProducts | "none" | undefined;

/**
 * `undefined` where the processor lacks all instructions, in a checkout on a machine without a C compiler, and while the
 * environment says `ALE_BLOCK_PRODUCTS=0`, for comparisons; with `ALE_BLOCK_PRODUCTS=avx2` it does no more than that.
 * @throws AleError("engine") when the library does not compile, or ONNX Runtime refuses the operator.
 */
export function blockProducts(): BlockProducts | undefined {
  const wish = process.env.ALE_BLOCK_PRODUCTS;
  if (wish === "0") return undefined;
  loaded ??= load() ?? "none";
  if (loaded === "none") return undefined;
  return wish === "avx2" ? { ...loaded, instructionsFor: ({ bits }) => best(["avx2"], bits) } : loaded;
}

/** AVX2 is for 4 bits alone. */
function best(among: readonly Instructions[], bits: number): Instructions | undefined {
  return among.findLast((name) => name === "vnni" || bits === 4);
}

function load(): BlockProducts | undefined {
  const own = ownOperators();
  if (own === undefined) return undefined;
  const { symbols } = dlopen(own.path, SYMBOLS);
  const level = symbols.ale_products_instructions();
  const instructions = (Object.keys(INSTRUCTIONS) as Instructions[]).filter((name) => INSTRUCTIONS[name] <= level);
  if (instructions.length === 0) return undefined;
  const packedBytes = ({ rows, columns, bits, block }: BlockShape) =>
    Number(symbols.ale_products_packed_bytes(rows, columns, bits, block));
  return {
    instructions,
    domain: own.domain,
    instructionsFor: ({ bits }) => best(instructions, bits),
    packedBytes,
    pack: (shape, codes, scales, target) => {
      const { rows, columns, bits, block } = shape;
      const blocks = rows * Math.ceil(columns / block);
      const fits = scales.length === blocks && codes.length === (blocks * block * bits) / 8;
      if (!fits || target.length !== packedBytes(shape)) {
        throw new AleError("internal", `codes, scales or target do not fit a matrix of ${rows} × ${columns}`);
      }
      const at = (view: NativeArray): Pointer => addressOf(view) as Pointer;
      symbols.ale_products_pack(at(codes), at(scales), rows, columns, bits, block, at(target));
    },
  };
}

/** Attributes of a node of the operator. */
export function blockAttributes({ rows, columns, bits, block }: BlockShape, instructions: Instructions): Attributes {
  return {
    N: { int: rows },
    K: { int: columns },
    bits: { int: bits },
    block_size: { int: block },
    instructions: { int: INSTRUCTIONS[instructions] },
  };
}
