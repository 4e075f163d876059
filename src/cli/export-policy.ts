/** `ale export … --hf`: a policy as a Hugging Face folder. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseExperiment } from "../config/load.ts";
import { prepareEmptyFolder } from "../config/paths.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import { findAdapter } from "../experiment/adapter.ts";
import { writeHuggingFaceFolder } from "../export/hugging-face.ts";
import { type FloatType, TORCH_NAMES } from "../models/float-types.ts";
import { ADAPTER_CONFIG_FILE } from "../models/peft.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import type { RunRecord } from "../store/records.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import type { CommandLine } from "./command-line.ts";
import type { ExportFlags } from "./export.ts";

/** Element types that may be asked for. */
const OFFERED: readonly FloatType[] = ["F32", "BF16", "F16"];

function chosenType({ dtype }: ExportFlags): FloatType | undefined {
  if (dtype === undefined) return undefined;
  const type = OFFERED.find((candidate) => TORCH_NAMES[candidate] === dtype);
  if (type !== undefined) return type;
  throw new AleError("usage", `--dtype ${dtype} is not a type of weights`, {
    hint: `use ${OFFERED.map((candidate) => TORCH_NAMES[candidate]).join(", ")}`,
  });
}

/** Whether `path` is a policy, on disk or a shipped one, and not a run or its directory. */
export function isPolicy(path: string): boolean {
  if (path.endsWith(".gguf")) return true;
  try {
    const folder = openPolicyFolder(path);
    return ["config.json", ADAPTER_CONFIG_FILE].some((name) => folder.has(name));
  } catch (error) {
    // no such folder: the name of a run
    if (error instanceof AleError && !existsSync(path)) return false;
    throw error;
  }
}

/** A policy folder, PEFT folder or GGUF file, written to `--out`. */
export function exportPolicy(cli: CommandLine, path: string, flags: ExportFlags): void {
  if (flags.out === undefined) {
    throw new AleError("usage", "exporting a policy needs a folder to write", { hint: "add --out DIR" });
  }
  const dtype = chosenType(flags);
  const { model, lora } = findAdapter(path);
  const folder = prepareEmptyFolder(flags.out);
  const files = writeHuggingFaceFolder(folder, { model, adapter: lora?.adapter, like: flags.like ?? model, dtype });
  if (flags.json) cli.printJson({ folder, files });
  else cli.print(`${sanitizeLine(path)} written to ${sanitizeLine(folder)}`);
}

/**
 * The policy of a run, in the form of the model the run started from.
 * @param toml the run's configuration.
 * @throws AleError("model") when that model is not there any more.
 */
export function exportRunPolicy(run: RunRecord, toml: string, target: string, flags: ExportFlags): void {
  const dtype = chosenType(flags);
  const policy = join(run.outDir, "policy");
  if (!existsSync(policy)) {
    throw new AleError("model", `run ${run.id} has no policy in ${policy}`, {
      hint: "it ended before its first checkpoint, or its run directory has moved",
    });
  }
  const { model, lora } = findAdapter(policy);
  const start = parseExperiment(run.id, toml).experiment.model.path;
  const like = flags.like ?? (lora === undefined ? (start ?? policy) : model);
  try {
    openPolicyFolder(like);
  } catch (error) {
    throw new AleError("model", `the model this run started from cannot be read: ${errorMessage(error)}`, {
      hint: "say where it is now with --like DIR",
      cause: error,
    });
  }
  writeHuggingFaceFolder(prepareEmptyFolder(target), { model, adapter: lora?.adapter, like, dtype });
}
