/** The verifier's verdict: `/logs/verifier/reward.json`, else `/logs/verifier/reward.txt` (Harbor's task format). */

import type { Sandbox } from "../core/ports.ts";
import type { TestCounts } from "../core/types.ts";
import { counts, readCtrf, readJunit } from "./test-counts.ts";

export const VERIFIER_FOLDER = "/logs/verifier";
const JSON_FILE = `${VERIFIER_FOLDER}/reward.json`;
const TEXT_FILE = `${VERIFIER_FOLDER}/reward.txt`;
const MAX_REWARD_BYTES = 64 << 10;
const MAX_REPORT_BYTES = 4 << 20;
/** Reports of test runners, the first that can be read counts. */
const REPORTS = [
  [`${VERIFIER_FOLDER}/ctrf.json`, readCtrf],
  [`${VERIFIER_FOLDER}/junit.xml`, readJunit],
] as const;

/** What the verifier wrote besides the reward. */
export interface VerdictDetails {
  /** By key of `reward.json`. */
  readonly scores?: Readonly<Record<string, number>>;
  readonly tests?: TestCounts;
}

export type Verdict = ({ readonly reward: number } & VerdictDetails) | { readonly error: string };

/** Further keys of `reward.json` that are kept. */
const MAX_SCORES = 32;
const SCORE_NAME = /^[A-Za-z][A-Za-z0-9_.-]{0,39}$/;

/** Text that an agent may have written, made fit for a message: printable ASCII, at most 80 characters. */
export function quoteFound(text: string): string {
  const printable = text.replace(/[^\x20-\x7e]+/g, " ").trim();
  return JSON.stringify(printable.length > 80 ? `${printable.slice(0, 80)}...` : printable);
}

/**
 * `reward.json`: a number, or an object of numbers whose key `reward` is the score. Its other keys are kept as scores, and
 * `passed` and `total` besides as counts of tests.
 */
export function parseRewardJson(text: string): Verdict {
  const wrong = (why: string): Verdict => ({ error: `${JSON_FILE} ${why}: ${quoteFound(text)}` });
  if (text.trim() === "") return { error: `${JSON_FILE} is empty` };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return wrong("is not JSON");
  }
  let details: VerdictDetails = {};
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    if (!Object.hasOwn(value, "reward")) return wrong('has no key "reward"');
    const { reward, ...rest } = value as Record<string, unknown>;
    details = detailsOf(rest);
    value = reward;
  }
  if (typeof value === "number" && Number.isFinite(value)) return { reward: value, ...details };
  return wrong("holds no finite number");
}

function detailsOf(rest: Readonly<Record<string, unknown>>): VerdictDetails {
  const scores = Object.entries(rest).filter(
    (entry): entry is [string, number] => SCORE_NAME.test(entry[0]) && Number.isFinite(entry[1]),
  );
  if (scores.length === 0) return {};
  const { passed, total } = rest;
  const tests = typeof passed === "number" && typeof total === "number" ? counts(passed, total) : undefined;
  return { scores: Object.fromEntries(scores.slice(0, MAX_SCORES)), ...(tests && { tests }) };
}

/** `reward.txt`: one decimal number. */
export function parseRewardText(text: string): Verdict {
  const found = text.trim();
  if (found === "") return { error: `${TEXT_FILE} is empty` };
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(found) && Number.isFinite(Number(found)))
    return { reward: Number(found) };
  return { error: `${TEXT_FILE} does not hold a number: ${quoteFound(text)}` };
}

/**
 * Reads the reward that the verifier left; a wrong or missing one is an error, never 0.
 * @param withTests also look for a report of how many tests passed.
 */
export async function readReward(sandbox: Sandbox, withTests = false): Promise<Verdict> {
  const verdict = await readScore(sandbox);
  if (!withTests || "error" in verdict || verdict.tests !== undefined) return verdict;
  for (const [path, read] of REPORTS) {
    // a report that cannot be read, such as a link, is none
    const content = await sandbox.readFile(path, MAX_REPORT_BYTES).catch(() => null);
    const tests = content === null ? undefined : read(new TextDecoder().decode(content));
    if (tests !== undefined) return { ...verdict, tests };
  }
  return verdict;
}

async function readScore(sandbox: Sandbox): Promise<Verdict> {
  const json = await sandbox.readFile(JSON_FILE, MAX_REWARD_BYTES);
  if (json !== null) return parseRewardJson(new TextDecoder().decode(json));
  const text = await sandbox.readFile(TEXT_FILE, MAX_REWARD_BYTES);
  if (text !== null) return parseRewardText(new TextDecoder().decode(text));
  return { error: `the tests wrote no reward: neither ${JSON_FILE} nor ${TEXT_FILE} exists` };
}
