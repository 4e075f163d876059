/** The model that adapters belong to, or that is only generated with: read from its folder, quantised where asked for. */

import type { DecoderConfig } from "../models/config.ts";
import { type AdaptedBase, FrozenParameters } from "../models/frozen-parameters.ts";
import { adaptersFor } from "../models/lora.ts";
import { layOut, type ParameterLayout, parameterLayout, parameterView } from "../models/parameters.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import type { QuantizationScheme } from "../models/quantization.ts";
import {
  dequantizeBase,
  flatReader,
  matrixGroups,
  type QuantizedBase,
  quantizeBase,
  storedReader,
} from "../models/quantized-base.ts";
import { copyTensor } from "../models/stored-tensor.ts";
import { assertKnown, readFolderWeights, readWeights } from "../models/weights.ts";
import type { LoraStart } from "./protocol.ts";

/**
 * The base that adapters are trained on. With `scheme` the trainer's float32 weights are the values of the codes that
 * generation multiplies with; the file then holds these values, from which the codes come out the same again.
 */
export function openTrainingBase(
  config: DecoderConfig,
  lora: LoraStart,
  file: string,
  scheme: QuantizationScheme | undefined,
): AdaptedBase {
  const layout = parameterLayout(config);
  let quantized: QuantizedBase | undefined;
  const parameters = FrozenParameters.open(file, layout, (flat) => {
    readWeights(readFolderWeights(openPolicyFolder(lora.base)), layout, flat);
    if (scheme === undefined) return;
    quantized = quantizeBase(config, scheme, flatReader(layout, flat));
    dequantizeBase(quantized, layout, flat);
  });
  if (scheme !== undefined) quantized ??= quantizeBase(config, scheme, flatReader(layout, parameters.flat));
  return { parameters, adapters: adaptersFor(config, lora.config), quantized };
}

/** A frozen copy of a folder's weights, to measure a divergence from. */
export function openReference(config: DecoderConfig, folder: string, file: string): FrozenParameters {
  const layout = parameterLayout(config);
  return FrozenParameters.open(file, layout, (flat) =>
    readWeights(readFolderWeights(openPolicyFolder(folder)), layout, flat),
  );
}

/** A base for generation alone: with `scheme`, its matrices exist as codes only. */
export function openGenerationBase(
  config: DecoderConfig,
  folder: string,
  lora: LoraStart | undefined,
  scheme: QuantizationScheme | undefined,
): AdaptedBase {
  const layout = parameterLayout(config);
  const stored = readFolderWeights(openPolicyFolder(folder));
  const adapters = adaptersFor(config, lora?.config ?? { rank: 1, alpha: 1, rslora: false, targets: [] });
  if (scheme === undefined) {
    return { parameters: FrozenParameters.inMemory(layout, (flat) => readWeights(stored, layout, flat)), adapters };
  }
  assertKnown(stored, layout);
  const quantized = quantizeBase(config, scheme, storedReader(stored, layout));
  const rest = withoutMatrices(config, layout);
  const parameters = FrozenParameters.inMemory(rest, (flat) => {
    for (const { name, shape } of rest.entries) copyTensor(stored, name, shape, parameterView(rest, flat, name));
  });
  return { parameters, adapters, quantized };
}

/** Norms and biases alone. */
function withoutMatrices(config: DecoderConfig, layout: ParameterLayout): ParameterLayout {
  const matrices = new Set(matrixGroups(config).flat());
  const rest = layout.entries.filter(({ name }) => !matrices.has(name));
  return layOut(rest.map(({ name, kind, shape }) => [name, kind, shape]));
}
