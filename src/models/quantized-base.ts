/**
 * The weight matrices of a frozen decoder as block-wise codes: what generation multiplies with. Norms and biases stay
 * float32. The trainer's frozen weights are the float32 values of the same codes, so both sides compute the same model up
 * to the rounding of activations in generation.
 */

import { AleError } from "../core/errors.ts";
import type { DecoderConfig } from "./config.ts";
import {
  EMBEDDING,
  headName,
  layerNames,
  type ParameterEntry,
  type ParameterLayout,
  parameterLayout,
  parameterView,
} from "./parameters.ts";
import {
  dequantizeRows,
  emptyMatrix,
  type QuantizationScheme,
  type QuantizedMatrix,
  quantizeRows,
  SCHEMES,
} from "./quantization.ts";
import { findTensor, PIECE, type StoredTensors } from "./stored-tensor.ts";

export interface QuantizedBase {
  readonly scheme: QuantizationScheme;
  /** Matrices that read the same input are one, stacked along their rows; the key is their names joined by "+". */
  readonly matrices: ReadonlyMap<string, QuantizedMatrix>;
}

/** Writes elements begin … begin + target.length − 1 of the parameter `name` into `target`. */
export type ElementReader = (name: string, begin: number, target: Float32Array) => void;

/** The parameters that are quantised, in the groups in which they are stacked. */
export function matrixGroups(config: DecoderConfig): readonly (readonly string[])[] {
  const groups: (readonly string[])[] = [[EMBEDDING]];
  for (let layer = 0; layer < config.layers; layer++) {
    const { query, key, value, output, gate, up, down } = layerNames(layer);
    groups.push([query, key, value], [output], [gate, up], [down]);
  }
  if (!config.tiedEmbeddings) groups.push([headName(config)]);
  return groups;
}

/**
 * Quantises all weight matrices of a decoder, holding a few megabytes of float32 at a time.
 * @throws AleError("model") for weights that are not finite and for models that cannot be quantised.
 */
export function quantizeBase(config: DecoderConfig, scheme: QuantizationScheme, read: ElementReader): QuantizedBase {
  if (config.experts !== null) refuse("a model with experts cannot be quantised");
  const { block } = SCHEMES[scheme];
  if (config.hiddenSize % block !== 0) refuse(`a hidden size of ${config.hiddenSize} is not a multiple of ${block}`);
  const { byName } = parameterLayout(config);
  const matrices = new Map<string, QuantizedMatrix>();
  for (const names of matrixGroups(config)) {
    const parts = names.map((name) => byName.get(name) as ParameterEntry);
    const [rows, columns] = [parts.reduce((sum, part) => sum + rowsOf(part), 0), columnsOf(parts[0] as ParameterEntry)];
    const matrix = emptyMatrix(scheme, rows, columns);
    let row = 0;
    for (const part of parts) {
      forEachPiece(part, (begin, piece) => {
        read(part.name, begin, piece);
        quantizeRows(matrix, piece, row + begin / columns);
      });
      row += rowsOf(part);
    }
    matrices.set(names.join("+"), matrix);
  }
  return { scheme, matrices };
}

/** Writes the values of all matrices over those parameters in a flat array of the whole decoder. */
export function dequantizeBase(base: QuantizedBase, layout: ParameterLayout, flat: Float32Array): void {
  for (const [key, matrix] of base.matrices) {
    let row = 0;
    for (const name of key.split("+")) {
      const view = parameterView(layout, flat, name);
      dequantizeRows(matrix, view, row);
      row += view.length / matrix.columns;
    }
  }
}

/** Reads parameters from files. @throws AleError("model") for a tensor that is missing or does not fit. */
export function storedReader(stored: StoredTensors, layout: ParameterLayout): ElementReader {
  return (name, begin, target) => {
    const tensor = findTensor(stored, name, (layout.byName.get(name) as ParameterEntry).shape);
    for (let at = 0; at < target.length; at += PIECE) {
      tensor.readElements(begin + at, target.subarray(at, Math.min(target.length, at + PIECE)));
    }
  };
}

/** Reads parameters from a flat array. */
export function flatReader(layout: ParameterLayout, flat: Float32Array): ElementReader {
  return (name, begin, target) => target.set(parameterView(layout, flat, name).subarray(begin, begin + target.length));
}

/** Whole rows at a time, from elements on that files can be read from. */
function forEachPiece(part: ParameterEntry, visit: (begin: number, piece: Float32Array) => void): void {
  const step = columnsOf(part) * (PIECE / greatestCommonDivisor(columnsOf(part), PIECE));
  const piece = new Float32Array(Math.min(step, part.size));
  for (let begin = 0; begin < part.size; begin += step) {
    visit(begin, piece.subarray(0, Math.min(step, part.size - begin)));
  }
}

function rowsOf(part: ParameterEntry): number {
  return part.shape[0] as number;
}

function columnsOf(part: ParameterEntry): number {
  return part.shape[1] as number;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

function refuse(why: string): never {
  throw new AleError("model", why, { hint: 'set model.quantization = "none"' });
}
