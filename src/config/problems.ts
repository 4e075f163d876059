/** Turns what the schema rejected into sentences: where, which key, what was found, what is allowed. */

import type { z } from "zod";
import {
  chooseVariant,
  describeRequirement,
  isTable,
  type KeyPath,
  listSettings,
  nodeAt,
  valueAt,
  variantNames,
} from "./schema-tree.ts";
import { suggest } from "./suggest.ts";
import { lineOf } from "./toml-lines.ts";

/** One parsed file. */
export interface Layer {
  readonly name: string;
  readonly table: Readonly<Record<string, unknown>>;
  readonly lines: ReadonlyMap<string, number>;
}

const MAX_SHOWN_VALUE = 60;

/** One sentence per problem; an issue about unknown keys gives one for each key. */
export function describeProblem(
  issue: z.core.$ZodIssue,
  raw: Readonly<Record<string, unknown>>,
  layers: readonly Layer[],
  overridden: ReadonlySet<string>,
): string[] {
  const path = issue.path.map((segment) => (typeof segment === "symbol" ? String(segment) : segment));
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => {
      const where = locate([...path, key], layers, overridden);
      return `${where}${describeUnknownKey(path, key, raw)}`;
    });
  }
  const where = locate(path, layers, overridden);
  const node = nodeAt(path, raw);
  const found = valueAt(raw, path);
  const isOverride = where === `--${path.join(".")}: `;
  const subject = isOverride ? where.slice(0, -2) : `${where}${path.join(".")}`;
  if (issue.code === "custom") return [`${subject} ${issue.message}`];
  const allowed =
    issue.code === "invalid_format" ? issue.message : node === undefined ? issue.message : describeRequirement(node);
  if (found === undefined) return [`${subject} is missing; expected ${allowed}`];
  return [`${subject} is ${describeValue(found)}; expected ${allowed}`];
}

function describeUnknownKey(path: KeyPath, key: string, raw: unknown): string {
  const dotted = [...path, key].join(".");
  const node = nodeAt(path, raw);
  const table = valueAt(raw, path);
  const siblings = Object.keys((node === undefined ? undefined : chooseVariant(node, table))?.properties ?? {});
  const prefix = path.length === 0 ? "" : `${path.join(".")}.`;
  const near = suggest(key, siblings);
  if (near !== undefined) return `unknown key ${dotted}; did you mean ${prefix}${near}?`;
  const owner = node?.oneOf?.find((variant) => Object.hasOwn(variant.properties ?? {}, key));
  if (owner !== undefined && isTable(table)) {
    const type = JSON.stringify(owner.properties?.type?.const);
    return `unknown key ${dotted}: it belongs to type ${type}, and ${path.join(".")}.type is ${JSON.stringify(table.type)}`;
  }
  const elsewhere = findElsewhere(key);
  if (elsewhere !== undefined) return `unknown key ${dotted}; did you mean ${elsewhere}?`;
  const known = node?.oneOf === undefined ? siblings : variantNames(node);
  return `unknown key ${dotted}; ${path.length === 0 ? "the experiment" : path.join(".")} has ${known.join(", ")}`;
}

/** A setting of that name in another table, or else the one with the nearest name. */
function findElsewhere(key: string): string | undefined {
  const keys = listSettings().map((setting) => setting.key);
  const leaf = (dotted: string) => dotted.split(".").at(-1) ?? dotted;
  const same = keys.filter((candidate) => leaf(candidate) === key);
  if (same.length > 0) return same.join(" or ");
  const near = suggest(key, keys.map(leaf));
  return near === undefined ? undefined : keys.filter((candidate) => leaf(candidate) === near).join(" or ");
}

/**
 * `file:line: ` of the last layer that set `path`, or `--key: ` when the command line did; of the nearest table around it, or
 * what the command line set in there, where nobody did.
 */
function locate(path: KeyPath, layers: readonly Layer[], overridden: ReadonlySet<string>): string {
  for (let length = path.length; length > 0; length--) {
    const key = path.slice(0, length).join(".");
    if (overridden.has(key)) return `--${key}: `;
    const prefix = path.slice(0, length);
    const layer = layers.findLast((candidate) => valueAt(candidate.table, prefix) !== undefined);
    const beside = [...overridden].find((other) => other.startsWith(`${key}.`));
    if (layer === undefined && beside !== undefined) return `--${beside}: `;
    if (layer === undefined) continue;
    const line = lineOf(layer.lines, prefix);
    return line === undefined ? `${layer.name}: ` : `${layer.name}:${line}: `;
  }
  return "";
}

function describeValue(value: unknown): string {
  if (value instanceof Date) return `the date ${value.toISOString()}`;
  if (typeof value === "bigint" || typeof value === "number") return String(value);
  if (isTable(value)) return "a table";
  const json = JSON.stringify(value) ?? String(value);
  const text = json.length > MAX_SHOWN_VALUE ? `${json.slice(0, MAX_SHOWN_VALUE)}…` : json;
  return Array.isArray(value) ? `the array ${text}` : text;
}
