/** Operators of our own for ONNX Runtime's processor (`kernels/`), one library and one domain for all of them. */

import { dlopen, type Pointer } from "bun:ffi";
import { AleError } from "../core/errors.ts";
import { OWN_OPERATORS } from "../onnx/model.ts";
import { ortApi } from "./c-api.ts";
import { buildCachedKernels } from "./kernels/build.ts";
import { loadOperatorsLibrary } from "./natives.ts";
import { isCompiled } from "./shipped.ts";

export interface OwnOperators {
  /** Where the library is loaded from; what else it exports is had by opening it again. */
  readonly path: string;
  /** The native `OrtCustomOpDomain*`, for the options of sessions; it lives as long as the process. */
  readonly domain: number;
}

let loaded: OwnOperators | "none" | undefined;

/**
 * `undefined` in a checkout on a machine without a C compiler.
 * @throws AleError("engine") when the library does not compile, or ONNX Runtime refuses an operator.
 */
export function ownOperators(): OwnOperators | undefined {
  loaded ??= load() ?? "none";
  return loaded === "none" ? undefined : loaded;
}

function load(): OwnOperators | undefined {
  const path = isCompiled ? loadOperatorsLibrary() : buildCachedKernels();
  if (path === undefined) return undefined;
  const { symbols } = dlopen(path, { ale_operators_domain: { args: ["ptr"], returns: "ptr" } });
  const domain = symbols.ale_operators_domain(ortApi().table as Pointer);
  if (domain === null) throw new AleError("engine", `ONNX Runtime refuses the operators of domain "${OWN_OPERATORS}"`);
  return { path, domain: Number(domain) };
}
