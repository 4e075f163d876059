/** Limits of episodes for policies that hold conversations, where an experiment leaves them at their defaults. */

import type { Experiment } from "../config/experiment.ts";
import type { ChangedSetting } from "../config/load.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { openPolicyFolder } from "../models/policy-folder.ts";
import { readModelText } from "../tokens/model-text.ts";
import { findAdapter } from "./adapter.ts";

/**
 * The schema's defaults fit the compact transcript, in which a command has a dozen tokens. A conversation has a system
 * message, text around commands, and models that were made to read long outputs.
 */
const CONVERSATION_LIMITS = {
  maxCommandTokens: 512,
  maxEpisodeTokens: 4096,
  maxObservationChars: 2000,
  episodeSeconds: 300,
} as const;

/** Settings, as `key=value`, for what the experiment does not set itself; none for a policy with the compact transcript. */
export function conversationSettings(experiment: Experiment, changed: readonly ChangedSetting[]): string[] {
  const { path } = experiment.model;
  if (path === undefined) return [];
  const folder = openPolicyFolder(findAdapter(path, experiment.lora?.adapter).model);
  if (!folder.has("tokenizer.json") || readModelText(folder).chat === undefined) return [];
  const { contextLength } = configFromHuggingFace(folder.readJson("config.json"), `${folder.location}/config.json`);
  const limits = {
    ...CONVERSATION_LIMITS,
    maxEpisodeTokens: Math.min(CONVERSATION_LIMITS.maxEpisodeTokens, contextLength),
  };
  const own = new Set(changed.map(({ key }) => key));
  return Object.entries(limits)
    .map(([key, value]): [string, number] => [`rollout.${key}`, value])
    .filter(([key]) => !own.has(key))
    .map(([key, value]) => `${key}=${value}`);
}
