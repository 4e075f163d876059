/** The model that `--policy` names: a folder, a server elsewhere, or a script. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DONE_WORD, writeCommandBlock } from "../agent/chat-answer.ts";
import { conversationFormat } from "../agent/conversation-format.ts";
import type { TranscriptFormat } from "../agent/format.ts";
import type { Experiment } from "../config/experiment.ts";
import { RemoteSchema } from "../config/remote.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import type { EventHub } from "../core/events.ts";
import type { Policy } from "../core/ports.ts";
import type { Quantization } from "../core/quantization.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import {
  type ChatAnswer,
  type ChatModel,
  type ChatRequest,
  type ChatUsage,
  MeteredModel,
} from "../policy/chat-model.ts";
import { ChatPolicy } from "../policy/chat-policy.ts";
import { OpenAiModel } from "../policy/openai.ts";
import { parseScript, ScriptedChatModel } from "../policy/scripted-chat.ts";
import { Limiter } from "../rollout/limiter.ts";
import { findAdapter } from "./adapter.ts";
import { assertRoom, type PolicySource, policyFromFolder } from "./policy-source.ts";
import { startEngines } from "./resources.ts";

export interface LanguageModel extends AsyncDisposable {
  /** As a user names it. */
  readonly name: string;
  /** Plays episodes. */
  readonly policy: Policy;
  /** How episodes are written for it; `system` takes the place of how commands are written. */
  format(system?: string): TranscriptFormat;
  /** Answers single questions. */
  readonly chat: ChatModel;
  /** What was asked so far; nothing is counted for a folder's episodes, which cost nobody anything. */
  readonly usage: ChatUsage;
  /** Paths that its sandboxes must not see. */
  readonly hidden: readonly string[];
}

export interface ModelWishes {
  readonly experiment: Experiment;
  readonly hub: EventHub;
  readonly adapter?: string | undefined;
  readonly quantization?: Quantization | undefined;
}

/** Limits of an episode with a model that was made for long conversations; tokens of one elsewhere are counted in bytes. */
const LONG_EPISODE = { maxTurns: 40, maxCommandTokens: 4096, maxObservationChars: 8000, episodeSeconds: 1800 } as const;
const ELSEWHERE_BYTES = 400_000;
const FOLDER_TOKENS = 32_768;

/** Settings of long episodes, as `key=value`, for commands that are given a policy and no experiment. */
export function longEpisodeSettings(policy: string): string[] {
  const maxEpisodeTokens = isElsewhere(policy) ? ELSEWHERE_BYTES : Math.min(FOLDER_TOKENS, contextOf(policy));
  return Object.entries({ ...LONG_EPISODE, maxEpisodeTokens }).map(([key, value]) => `rollout.${key}=${value}`);
}

function contextOf(policy: string): number {
  const folder = openPolicyFolder(findAdapter(policy).model);
  return configFromHuggingFace(folder.readJson("config.json"), `${folder.location}/config.json`).contextLength;
}

/** Whether a policy is answered for by something else than an engine of ours. */
export function isElsewhere(policy: string): boolean {
  return policy === "openai" || /^(openai|scripted):/.test(policy);
}

/**
 * Opens the model that `policy` names: `openai:URL#MODEL`, `openai` (as `[remote]` says), `scripted:FILE`, or a folder. A
 * server is asked a first question, so that a wrong address, key or name is told before any work is done.
 *
 * @throws AleError("usage" | "config" | "remote" | "model" | "tokenizer")
 */
export async function openLanguageModel(policy: string, wishes: ModelWishes): Promise<LanguageModel> {
  if (!isElsewhere(policy)) return openFolder(policy, wishes);
  const script = /^scripted:(.+)$/.exec(policy)?.[1];
  if (script !== undefined) return elsewhere(readScript(script), [script]);
  const model = new OpenAiModel(...remoteSettings(policy, wishes.experiment));
  await model.complete({ messages: [{ role: "user", content: "Say OK." }], maxTokens: 16, temperature: 0 });
  return elsewhere(model, []);
}

function elsewhere(model: ChatModel, hidden: readonly string[]): LanguageModel {
  const chat = new MeteredModel(model);
  return {
    name: model.name,
    policy: new ChatPolicy(chat),
    format: conversationFormat,
    chat,
    usage: chat.usage,
    hidden,
    [Symbol.asyncDispose]: async () => {},
  };
}

function readScript(path: string): ScriptedChatModel {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new AleError("usage", `the script ${path} cannot be read: ${errorMessage(error)}`, { cause: error });
  }
  return new ScriptedChatModel(`scripted:${path}`, parseScript(text, path), {
    writeCommand: writeCommandBlock,
    done: DONE_WORD,
  });
}

/** @throws AleError("usage") where neither the policy nor `[remote]` says which server and which model. */
function remoteSettings(policy: string, experiment: Experiment): ConstructorParameters<typeof OpenAiModel> {
  const remote = experiment.remote ?? RemoteSchema.parse({});
  const [url = "", model = ""] = policy === "openai" ? [remote.url, remote.model] : policy.slice(7).split("#");
  if (!/^https?:\/\/\S+$/.test(url) || model === "") {
    throw new AleError("usage", `--policy ${policy} does not say which server and which model`, {
      hint: "write openai:http://127.0.0.1:8000/v1#MODEL, or set url and model in [remote] of the file in --config",
    });
  }
  const { apiKeyEnv, timeout, retries, concurrency, maxTokens, stream, omit } = remote;
  const apiKey = process.env[apiKeyEnv]?.trim() || undefined;
  const settings = { url, model, apiKey, apiKeyEnv, timeoutMs: timeout * 1000, retries, maxTokens, stream, omit };
  return [settings, new Limiter(concurrency)];
}

async function openFolder(path: string, wishes: ModelWishes): Promise<LanguageModel> {
  const { experiment, adapter } = wishes;
  const { systemPrompt } = experiment.rollout;
  const source = policyFromFolder(path, { adapter, systemPrompt });
  assertRoom(source, experiment);
  const engine = await openEngine(path, source, wishes);
  const formatFor = (system = systemPrompt) =>
    system === systemPrompt ? source.format : policyFromFolder(path, { adapter, systemPrompt: system }).format;
  const chat = new MeteredModel(new FolderModel(path, engine.policy, source, formatFor));
  return {
    name: path,
    policy: engine.policy,
    format: formatFor,
    chat,
    usage: chat.usage,
    hidden: [path, ...(adapter === undefined ? [] : [adapter])],
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

/** The engines of a policy that is not trained. */
export async function openEngine(
  path: string,
  source: PolicySource,
  { experiment, hub, adapter, quantization = experiment.model.quantization }: ModelWishes,
): Promise<AsyncDisposable & { readonly policy: Policy }> {
  const folder = mkdtempSync(join(tmpdir(), "ale-eval-"));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  try {
    const frozen = { folder: findAdapter(path, adapter).model };
    const settings = { ...experiment, model: { ...experiment.model, quantization } };
    const engine = await startEngines(settings, { ...source, frozen }, folder, hub);
    return { policy: engine, [Symbol.asyncDispose]: () => engine.stop().finally(remove) };
  } catch (error) {
    remove();
    throw error;
  }
}

/** A chat model of ours that is asked one question. */
class FolderModel implements ChatModel {
  readonly name: string;
  readonly #policy: Policy;
  readonly #source: PolicySource;
  readonly #formatFor: (system: string) => TranscriptFormat;
  readonly #formats = new Map<string, TranscriptFormat>();
  #questions = 0;

  constructor(name: string, policy: Policy, source: PolicySource, formatFor: (system: string) => TranscriptFormat) {
    this.name = name;
    this.#policy = policy;
    this.#source = source;
    this.#formatFor = formatFor;
  }

  async complete({ messages, maxTokens, temperature, topP, seed, signal }: ChatRequest): Promise<ChatAnswer> {
    const question = messages.at(-1);
    const system = messages.find(({ role }) => role === "system")?.content ?? "";
    if (question?.role !== "user" || messages.length > 2) {
      throw new AleError("internal", "a folder's model answers one question, not a conversation");
    }
    const format = this.#formats.get(system) ?? this.#formatFor(system);
    this.#formats.set(system, format);
    const context = format.encodePrompt(question.content);
    await using session = await this.#policy.open(`question/${seed ?? this.#questions++}`);
    const sampling = { temperature: Math.max(temperature, 0.01), greedy: temperature === 0, topP: topP ?? 1 };
    const { ids } = await session.generate(context, { ...sampling, maxTokens, stopIds: format.stopIds }, signal);
    const isWhole = format.stopIds.includes(ids.at(-1) ?? -1);
    const text = this.#source.tokenizer.decode(isWhole ? ids.subarray(0, -1) : ids);
    return { text, finish: isWhole ? "stop" : "length", promptTokens: context.length, answerTokens: ids.length };
  }
}
