/** The policy an experiment starts from: config, tokenizer and weights. */

import { readFileSync } from "node:fs";
import { chatFormat } from "../agent/chat-format.ts";
import { compactFormat } from "../agent/compact-format.ts";
import type { TranscriptFormat } from "../agent/format.ts";
import type { Experiment } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import type { Tokenizer } from "../core/ports.ts";
import type { LoraStart, WeightSource } from "../device/protocol.ts";
import { configFromHuggingFace, configFromPreset, configToHuggingFace } from "../models/config.ts";
import { loraTargets } from "../models/lora.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import { readFolderWeights } from "../models/weights.ts";
import { shippedFiles } from "../runtime/shipped.ts";
import { type ModelText, readModelText } from "../tokens/model-text.ts";
import { assertVocabulary } from "../tokens/tokenizer.ts";
import { findAdapter, placeOf } from "./adapter.ts";

export interface PolicySource {
  /** `config.json`, as parsed JSON. */
  readonly modelConfig: Readonly<Record<string, unknown>>;
  readonly tokenizer: Tokenizer;
  /** How episodes are written for it. */
  readonly format: TranscriptFormat;
  /** Tokenizer, chat template and their like, by file name; every checkpoint carries them. */
  readonly textFiles: ReadonlyMap<string, string>;
  readonly weights: WeightSource;
  /** Folder of the model it starts from; none where that is random. */
  readonly folder?: string;
  /** Adapters on these weights. */
  readonly lora?: LoraStart;
  /** Set where nothing is trained: the folder of the model itself. */
  readonly frozen?: { readonly folder: string };
}

export interface PolicyFolderOptions {
  /** A PEFT folder to put on the policy. */
  readonly adapter?: string | undefined;
  /** What a chat model is told; by default how to write commands. */
  readonly systemPrompt?: string | undefined;
}

/**
 * Reads a policy folder, or a PEFT folder together with the model it names.
 * @throws AleError("model" | "tokenizer") naming the file that is missing or does not fit.
 */
export function policyFromFolder(path: string, { adapter, systemPrompt }: PolicyFolderOptions = {}): PolicySource {
  const { model, lora } = findAdapter(path, adapter);
  const folder = openPolicyFolder(model);
  const modelConfig = folder.readJson("config.json");
  const config = configFromHuggingFace(modelConfig, `${folder.location}/config.json`);
  const text = readModelText(folder);
  assertVocabulary(text.tokenizer, config.vocabularySize, `${folder.location}/tokenizer.json`);
  readFolderWeights(folder);
  return {
    modelConfig,
    tokenizer: text.tokenizer,
    format: formatOf(text, systemPrompt, folder.location),
    textFiles: text.files,
    weights: { kind: "folder", folder: model },
    folder: model,
    ...(lora === undefined ? {} : { lora }),
  };
}

/** Chat models hold conversations; without a chat template it must be the compact transcript. */
function formatOf(text: ModelText, system: string | undefined, location: string): TranscriptFormat {
  const { chat, tokenizer } = text;
  if (chat !== undefined) {
    return chatFormat({ ...text, chat }, { location, ...(system === undefined ? {} : { system }) });
  }
  if (tokenizer.addedTokens.has("<cmd>")) return compactFormat(tokenizer);
  throw new AleError(
    "tokenizer",
    `${location} has no chat template, and its tokenizer not the tokens of the shell transcript`,
    {
      hint: "use an instruction-tuned model, or put a chat_template.jinja into the folder",
    },
  );
}

/** Throws `AleError("config")` when the tokens around every task leave no room for one. */
export function assertRoom({ format }: PolicySource, { rollout }: Experiment): void {
  const tokens = format.encodePrompt("").length;
  if (tokens + 1 < rollout.maxEpisodeTokens) return;
  throw new AleError(
    "config",
    `rollout.maxEpisodeTokens is ${rollout.maxEpisodeTokens}, but what the policy is told before any task has ${tokens} tokens`,
    {
      hint: "set rollout.maxEpisodeTokens, maxCommandTokens and maxObservationChars for a chat model (docs/models.md); ale eval takes them from --config FILE",
    },
  );
}

/** The policy of `experiment.model.path`, with the adapters that `experiment.lora` asks for. */
export function startingPolicy(experiment: Experiment): PolicySource {
  const source = namedPolicy(experiment);
  assertRoom(source, experiment);
  return source;
}

function namedPolicy(experiment: Experiment): PolicySource {
  const { path } = experiment.model;
  if (path === undefined) {
    throw new AleError(
      "config",
      "model.path is not set: reinforcement learning needs a policy that can already do something",
      {
        hint: "make one with `ale sft experiments/shell-sft.toml`, or use --model.path models/shell-start",
      },
    );
  }
  const { lora } = experiment;
  const { systemPrompt } = experiment.rollout;
  if (lora?.adapter !== undefined) return policyFromFolder(path, { systemPrompt, adapter: lora.adapter });
  const source = policyFromFolder(path, { systemPrompt });
  if (source.lora !== undefined) {
    throw new AleError("config", `model.path: ${path} holds adapters, not a model`, {
      hint: `set model.path to their base, ${source.lora.base}, and lora.adapter to this folder`,
    });
  }
  if (lora === undefined) return source;
  const config = configFromHuggingFace(source.modelConfig, `${path}/config.json`);
  const { rank, alpha, rslora, seed, targets = loraTargets(config) } = lora;
  return { ...source, lora: { config: { rank, alpha, rslora, targets }, seed, base: placeOf(path) } };
}

/** `config.json` of the preset `models/<name>.toml`, with the vocabulary of `vocabularySize` tokens. */
export function presetConfig(name: string, vocabularySize: number): Record<string, unknown> {
  const path = `models/${name}.toml`;
  const config = configFromPreset(readPreset(path, name), path);
  return configToHuggingFace({ ...config, vocabularySize });
}

function readPreset(path: string, name: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    const shipped = shippedFiles("models");
    const read = shipped.get(path);
    if (read !== undefined) return new TextDecoder().decode(read());
    const known = [...shipped.keys()].flatMap((file) => /^models\/([^/]+)\.toml$/.exec(file)?.[1] ?? []);
    throw new AleError("config", `model.preset: there is no preset ${name}`, { hint: `presets: ${known.join(", ")}` });
  }
}
