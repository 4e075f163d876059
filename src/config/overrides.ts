/**
 * Dotted overrides from the command line: `--trainer.steps 20`, `--optimizer.lr=1e-5`, `--deterministic`. The schema
 * says how the text is read, so that `--tasks.suite 7` is a name and `--rollout.groups 7` a number.
 */

import { parse } from "smol-toml";
import { AleError } from "../core/errors.ts";
import type { AlgorithmType } from "./algorithm.ts";
import { settingsOfType } from "./composition.ts";
import {
  childNode,
  chooseVariant,
  describeRequirement,
  experimentJsonSchema,
  isTable,
  listSettings,
  nodeAt,
  type SchemaNode,
} from "./schema-tree.ts";
import { suggest } from "./suggest.ts";

const FLAG = /^--([A-Za-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)+)(?:=([\s\S]*))?$/;

export interface Override {
  readonly path: readonly string[];
  /** The text after the key; `undefined` for a bare flag such as `--evaluation.greedy`. */
  readonly text: string | undefined;
}

/** Takes the dotted options out of an argument list: `--key value` and `--key=value`; `--` ends the options. */
export function splitOverrides(argv: readonly string[]): { rest: string[]; overrides: string[] } {
  const rest: string[] = [];
  const overrides: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i] ?? "";
    if (argument === "--") {
      rest.push(...argv.slice(i));
      break;
    }
    const [, key, inline] = FLAG.exec(argument) ?? [];
    if (key === undefined) {
      rest.push(argument);
      continue;
    }
    const next = argv[i + 1];
    if (inline !== undefined) {
      overrides.push(`${key}=${inline}`);
    } else if (next !== undefined && takesNext(key, next)) {
      overrides.push(`${key}=${next}`);
      i++;
    } else {
      overrides.push(key);
    }
  }
  return { rest, overrides };
}

function takesNext(key: string, next: string): boolean {
  if (next.startsWith("--")) return false;
  return nodeAt(key.split("."), undefined)?.type !== "boolean" || /^(true|false)$/.test(next);
}

/** Reads `key`, `key=text` or `--key=text`. */
export function parseOverride(override: string): Override {
  const plain = override.replace(/^--/, "");
  const equals = plain.indexOf("=");
  const key = equals < 0 ? plain : plain.slice(0, equals);
  return { path: key.split("."), text: equals < 0 ? undefined : plain.slice(equals + 1) };
}

/** Choices of a union (`algorithm.type`) come first, because they decide which other keys exist. */
export function orderOverrides(overrides: readonly Override[]): Override[] {
  const isChoice = (override: Override) => override.path.at(-1) === "type";
  return [...overrides.filter(isChoice), ...overrides.filter((override) => !isChoice(override))];
}

/**
 * A copy of `root` with the override set.
 * @throws AleError("config") for an unknown key, a missing value, or text that is no value of the key's type.
 */
export function applyOverride(root: Readonly<Record<string, unknown>>, override: Override): Record<string, unknown> {
  const node = nodeAt(override.path, root);
  const key = override.path.join(".");
  if (node === undefined) throw unknownOverride(key);
  const value = readValue(node, override.text, key);
  return setAt(root, override.path, value, experimentJsonSchema(), key) as Record<string, unknown>;
}

function unknownOverride(key: string): AleError {
  const known = listSettings().map((setting) => setting.key);
  const leaf = key.split(".").at(-1) ?? key;
  const near = suggest(key, known) ?? known.find((candidate) => candidate.split(".").at(-1) === leaf);
  const question = near === undefined ? "" : `; did you mean --${near}?`;
  return new AleError("config", `--${key}: there is no setting ${key}${question}`, {
    hint: "ale config show prints every setting with its default",
  });
}

/** Reads the text of an override as a value of the node's type. */
function readValue(node: SchemaNode, text: string | undefined, key: string): unknown {
  if (text === undefined) {
    if (node.type === "boolean") return true;
    throw new AleError("config", `--${key} has no value; expected ${describeRequirement(node)}`, {
      hint: `write --${key} ${exampleOf(node)}`,
    });
  }
  if (node.type === "string") return unquote(text);
  if (node.type === "boolean") return text === "true" ? true : text === "false" ? false : text;
  if (node.type === "number" || node.type === "integer") return readNumber(text) ?? text;
  if (node.type === "array") return readArray(node, text, key);
  return readToml(text, key, node);
}

function exampleOf(node: SchemaNode): string {
  const choice = node.default ?? node.enum?.[0] ?? (node.type === "string" ? "TEXT" : node.minimum);
  return typeof choice === "object" ? `'${JSON.stringify(choice)}'` : String(choice ?? "VALUE");
}

function readNumber(text: string): number | undefined {
  const plain = text.trim().replaceAll(/(?<=\d)_(?=\d)/g, "");
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain) ? Number(plain) : undefined;
}

/** `["a", "b"]` as TOML or JSON, or the plain list `a,b`. */
function readArray(node: SchemaNode, text: string, key: string): unknown {
  if (/^\s*\[/.test(text)) return readToml(text, key, node);
  const item = node.prefixItems?.[0] ?? (node.items ? node.items : undefined);
  if (item?.type === "object") return readToml(text, key, node);
  return text.split(",").map((part) => {
    const trimmed = part.trim();
    return item?.type === "string" ? unquote(trimmed) : (readNumber(trimmed) ?? trimmed);
  });
}

function readToml(text: string, key: string, node: SchemaNode): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Not JSON; TOML's own syntax is tried next.
  }
  try {
    return parse(`value = ${text}`).value;
  } catch (cause) {
    throw new AleError(
      "config",
      `--${key}: cannot read ${JSON.stringify(text)}; expected ${describeRequirement(node)}`,
      {
        hint: `arrays and tables are written as in TOML, e.g. --${key} ${exampleOf(node)}`,
        cause,
      },
    );
  }
}

function unquote(text: string): string {
  const quoted = /^(["'])([\s\S]*)\1$/.exec(text);
  return quoted?.[2] ?? text;
}

function setAt(holder: unknown, path: readonly string[], value: unknown, node: SchemaNode, key: string): unknown {
  const [segment, ...rest] = path;
  if (segment === undefined) return value;
  const child = childNode(node, segment, holder) ?? {};
  if (node.type === "array") {
    const items: unknown[] = Array.isArray(holder) ? [...holder] : [];
    const index = Number(segment);
    if (index > items.length) {
      throw new AleError("config", `--${key}: index ${index} of an array of ${items.length}`, {
        hint: "elements are counted from 0; the next new one may be added",
      });
    }
    items[index] = setAt(items[index], rest, value, child, key);
    return items;
  }
  const table = isTable(holder) ? withoutOtherVariants(holder, segment, value, node) : {};
  return { ...table, [segment]: setAt(table[segment], rest, value, child, key) };
}

/** Choosing another algorithm drops the settings that only the previous one read. */
function withoutOtherVariants(
  table: Readonly<Record<string, unknown>>,
  segment: string,
  value: unknown,
  node: SchemaNode,
): Readonly<Record<string, unknown>> {
  const variant = segment === "type" ? chooseVariant(node, { type: value }) : undefined;
  const properties = node.oneOf === undefined ? undefined : variant?.properties;
  if (properties === undefined) return table;
  const read = settingsOfType(value as AlgorithmType, table);
  return Object.fromEntries(
    Object.entries(table).filter(([key]) => properties[key]?.default !== undefined || read.includes(key)),
  );
}
