/** `ale generate`: one answer of a model, from the same engine process that runs use. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import type { Generation, SamplingOptions, TokenListener, TopLogprobs } from "../core/ports.ts";
import { EngineClient } from "../device/engine-client.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { openPolicyFolder, type PolicyFolder } from "../models/policy-folder.ts";
import { AnswerText } from "../tokens/answer-text.ts";
import type { ChatMessage } from "../tokens/chat-template.ts";
import { type ModelText, readModelText } from "../tokens/model-text.ts";
import { assertVocabulary } from "../tokens/tokenizer.ts";
import { findAdapter } from "./adapter.ts";
import type { GenerateOptions, GenerateResult } from "./api.ts";

/**
 * Samples one answer. Throws `AleError("usage")` for a prompt that is empty, too long or outside of the vocabulary, and
 * `AleError("model" | "tokenizer")` for a folder that does not fit.
 */
export async function generateAnswer(options: GenerateOptions): Promise<GenerateResult> {
  const { model, lora } = findAdapter(options.model, options.adapter);
  const folder = openPolicyFolder(model);
  const modelConfig = folder.readJson("config.json");
  const config = configFromHuggingFace(modelConfig, `${folder.location}/config.json`);
  const text = folder.has("tokenizer.json") ? readModelText(folder) : undefined;
  if (text !== undefined) assertVocabulary(text.tokenizer, config.vocabularySize, `${folder.location}/tokenizer.json`);
  const prompt = promptIds(options, text, folder);
  checkPrompt(prompt, config.vocabularySize, config.contextLength);
  const sampling = samplingOf(options, text);
  const directory = mkdtempSync(join(tmpdir(), "ale-generate-"));
  try {
    const engine = await EngineClient.start({
      modelConfig,
      weights: { kind: "folder", folder: model },
      ...(lora === undefined ? {} : { lora }),
      ...(options.quantization === "none" ? {} : { quantization: options.quantization }),
      frozen: { folder: model },
      storeFile: join(directory, "parameters.bin"),
      threads: options.threads,
      slots: 2,
      sequences: 1,
      context: Math.min(config.contextLength, prompt.length + sampling.maxTokens),
      microBatchTokens: 1,
      deterministic: false,
    });
    try {
      return await answer(engine, prompt, sampling, text, options);
    } finally {
      await engine.stop();
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function answer(
  engine: EngineClient,
  prompt: Int32Array,
  sampling: SamplingOptions,
  text: ModelText | undefined,
  { seed, stopStrings, signal, onText }: GenerateOptions,
): Promise<GenerateResult> {
  const hiddenIds = new Set([...(text?.tokenizer.specialIds ?? []), ...sampling.stopIds]);
  const written = text && new AnswerText(text.tokenizer, { stopStrings, hiddenIds });
  const listener: TokenListener | undefined =
    written &&
    ((id) => {
      const piece = written.push(id);
      if (piece !== "") onText?.(piece);
      return written.stopString !== undefined;
    });
  await using session = await engine.open(`generate/${seed}`);
  let generation: Generation;
  try {
    generation = await session.generate(prompt, sampling, signal, listener);
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new AleError("interrupted", "generation was interrupted", { cause: error });
  }
  const rest = written?.end() ?? "";
  if (rest !== "") onText?.(rest);
  return {
    ids: [...generation.ids],
    text: written === undefined ? null : written.text,
    logprobs: [...generation.logprobs],
    stop: generation.stop,
    ...(written?.stopString === undefined ? {} : { stopString: written.stopString }),
    ...(generation.topLogprobs === undefined ? {} : { topLogprobs: listTop(generation.topLogprobs) }),
    promptIds: [...prompt],
    seed,
  };
}

/** The given ids, or the ids of the prompt: rendered by the chat template, or with the tokens a text begins with. */
function promptIds({ input }: GenerateOptions, text: ModelText | undefined, folder: PolicyFolder): Int32Array {
  if (input.kind === "ids") return Int32Array.from(input.ids);
  if (text === undefined) {
    throw new AleError("tokenizer", `${folder.location} has no tokenizer.json, so it cannot read a text`, {
      hint: "give the tokens themselves with --ids 1,2,3",
    });
  }
  if (input.text === "") throw new AleError("usage", "the prompt is empty", { hint: 'write --prompt "some text"' });
  if (input.kind === "text") return text.tokenizer.encodeMarkup(input.text, { begin: true });
  if (text.chat === undefined) {
    throw new AleError("tokenizer", `${folder.location} has no chat template`, {
      hint: "leave out --chat to have the prompt continued as it is",
    });
  }
  const system: ChatMessage[] = input.system === undefined ? [] : [{ role: "system", content: input.system }];
  const messages = [...system, { role: "user" as const, content: input.text }];
  return text.tokenizer.encodeMarkup(text.chat.render({ messages, add_generation_prompt: true }));
}

function checkPrompt(prompt: Int32Array, vocabularySize: number, contextLength: number): void {
  if (prompt.length === 0) throw new AleError("usage", "the prompt has no tokens", { hint: "give at least one id" });
  const wrong = prompt.findIndex((id) => id < 0 || id >= vocabularySize);
  if (wrong >= 0) {
    throw new AleError("usage", `token ${wrong} of the prompt is ${prompt[wrong]}, which is not in the vocabulary`, {
      hint: `the model has ${vocabularySize} tokens, 0 to ${vocabularySize - 1}`,
    });
  }
  if (prompt.length >= contextLength) {
    throw new AleError("usage", `the prompt has ${prompt.length} tokens, which leaves no room for an answer`, {
      hint: `the model's context is ${contextLength} tokens, prompt and answer together`,
    });
  }
}

/**
 * What is not asked for is as the model's authors sample a text. Ids are continued as they are: no token ends their
 * continuation, and nothing but the command line changes the distribution.
 */
function samplingOf({ input, sampling, stopIds, ignoreEnd }: GenerateOptions, text?: ModelText): SamplingOptions {
  const authors = input.kind === "ids" ? undefined : text?.sampling;
  const endIds = input.kind === "ids" || ignoreEnd ? [] : (text?.endIds ?? []);
  return {
    greedy: sampling.greedy,
    maxTokens: sampling.maxTokens,
    stopIds: [...endIds, ...stopIds],
    temperature: sampling.temperature ?? authors?.temperature ?? 1,
    topK: sampling.topK ?? authors?.topK ?? 0,
    topP: sampling.topP ?? authors?.topP ?? 1,
    minP: sampling.minP ?? authors?.minP ?? 0,
    repetitionPenalty: sampling.repetitionPenalty ?? authors?.repetitionPenalty ?? 1,
    topLogprobs: sampling.topLogprobs ?? 0,
  };
}

function listTop({ count, ids, logprobs }: TopLogprobs): { id: number; logprob: number }[][] {
  return Array.from({ length: ids.length / count }, (_, t) =>
    Array.from({ length: count }, (_, i) => ({
      id: ids[t * count + i] as number,
      logprob: logprobs[t * count + i] as number,
    })).filter(({ logprob }) => logprob > Number.NEGATIVE_INFINITY),
  );
}
