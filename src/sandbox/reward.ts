/** The verifier's verdict: `/logs/verifier/reward.json`, else `/logs/verifier/reward.txt` (Harbor's task format). */

import type { Sandbox } from "../core/ports.ts";

export const VERIFIER_FOLDER = "/logs/verifier";
const JSON_FILE = `${VERIFIER_FOLDER}/reward.json`;
const TEXT_FILE = `${VERIFIER_FOLDER}/reward.txt`;
const MAX_REWARD_BYTES = 64 << 10;

export type Verdict = { readonly reward: number } | { readonly error: string };

/** Text that an agent may have written, made fit for a message: printable ASCII, at most 80 characters. */
export function quoteFound(text: string): string {
  const printable = text.replace(/[^\x20-\x7e]+/g, " ").trim();
  return JSON.stringify(printable.length > 80 ? `${printable.slice(0, 80)}...` : printable);
}

/** `reward.json`: a number, or an object of numbers whose key `reward` is the score. */
export function parseRewardJson(text: string): Verdict {
  const wrong = (why: string): Verdict => ({ error: `${JSON_FILE} ${why}: ${quoteFound(text)}` });
  if (text.trim() === "") return { error: `${JSON_FILE} is empty` };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return wrong("is not JSON");
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    if (!Object.hasOwn(value, "reward")) return wrong('has no key "reward"');
    value = (value as Record<string, unknown>).reward;
  }
  return typeof value === "number" && Number.isFinite(value) ? { reward: value } : wrong("holds no finite number");
}

/** `reward.txt`: one decimal number. */
export function parseRewardText(text: string): Verdict {
  const found = text.trim();
  if (found === "") return { error: `${TEXT_FILE} is empty` };
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(found) && Number.isFinite(Number(found)))
    return { reward: Number(found) };
  return { error: `${TEXT_FILE} does not hold a number: ${quoteFound(text)}` };
}

/** Reads the reward that the verifier left; a wrong or missing one is an error, never 0. */
export async function readReward(sandbox: Sandbox): Promise<Verdict> {
  const json = await sandbox.readFile(JSON_FILE, MAX_REWARD_BYTES);
  if (json !== null) return parseRewardJson(new TextDecoder().decode(json));
  const text = await sandbox.readFile(TEXT_FILE, MAX_REWARD_BYTES);
  if (text !== null) return parseRewardText(new TextDecoder().decode(text));
  return { error: `the tests wrote no reward: neither ${JSON_FILE} nor ${TEXT_FILE} exists` };
}
