/**
 * The experiment schema as a plain tree (JSON Schema 2020-12), from which overrides get their types, errors their bounds
 * and the resolved file its comments.
 */

import { z } from "zod";
import { ExperimentSchema } from "./experiment.ts";

/** The part of JSON Schema that the experiment schema produces. */
export interface SchemaNode {
  readonly type?: "object" | "array" | "string" | "number" | "integer" | "boolean";
  readonly description?: string;
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly pattern?: string;
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly items?: SchemaNode | false;
  readonly prefixItems?: readonly SchemaNode[];
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly oneOf?: readonly SchemaNode[];
}

export type KeyPath = readonly (string | number)[];

/** A leaf of the experiment: its dotted key and what the schema says about it. */
export interface Setting {
  readonly key: string;
  readonly node: SchemaNode;
}

let tree: SchemaNode | undefined;

/** JSON Schema of an experiment file, as `ale config schema` prints it. */
export function experimentJsonSchema(): SchemaNode {
  tree ??= {
    ...(z.toJSONSchema(ExperimentSchema, { io: "input" }) as SchemaNode),
    description: "An Ale experiment file (TOML); every key is optional",
  };
  return tree;
}

/** The variant of a union that `value` chooses by its `type`; the node itself where it is no union. */
export function chooseVariant(node: SchemaNode, value: unknown): SchemaNode | undefined {
  if (node.oneOf === undefined) return node;
  const type = isTable(value) ? value.type : undefined;
  return node.oneOf.find((variant) => variant.properties?.type?.const === type);
}

/** Names of the variants of a union, e.g. `["grpo", "reinforce"]`. */
export function variantNames(node: SchemaNode): string[] {
  return (node.oneOf ?? []).flatMap((variant) => {
    const name = variant.properties?.type?.const;
    return typeof name === "string" ? [name] : [];
  });
}

/** Schema of a child, looked for in every variant of a union when `value` does not choose one. */
export function childNode(node: SchemaNode, segment: string | number, value: unknown): SchemaNode | undefined {
  if (node.type === "array") {
    const index = Number(segment);
    if (!Number.isInteger(index) || index < 0) return undefined;
    return node.prefixItems?.[index] ?? (node.items === false ? undefined : node.items);
  }
  if (node.oneOf !== undefined && segment === "type") return { type: "string", enum: variantNames(node) };
  const variants = node.oneOf === undefined ? [node] : node.oneOf;
  const chosen = chooseVariant(node, value);
  for (const variant of chosen === undefined ? variants : [chosen, ...variants]) {
    const properties = variant.properties;
    if (properties !== undefined && Object.hasOwn(properties, segment)) return properties[segment];
  }
  return undefined;
}

/** Schema at `path`, or `undefined` where the experiment has no such key. `root` helps to choose union variants. */
export function nodeAt(path: KeyPath, root: unknown): SchemaNode | undefined {
  let node: SchemaNode | undefined = experimentJsonSchema();
  let value = root;
  for (const segment of path) {
    if (node === undefined) return undefined;
    node = childNode(node, segment, value);
    value = valueAt(value, [segment]);
  }
  return node;
}

/** Value at `path` inside parsed data, own properties only. */
export function valueAt(root: unknown, path: KeyPath): unknown {
  let value = root;
  for (const segment of path) {
    if (Array.isArray(value)) value = value[Number(segment)];
    else if (isTable(value) && Object.hasOwn(value, segment)) value = value[segment];
    else return undefined;
  }
  return value;
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** Every scalar or array setting with its dotted key, union variants included, in the order of the schema. */
export function listSettings(): Setting[] {
  const settings: Setting[] = [];
  const visit = (node: SchemaNode, prefix: string): void => {
    const variants = node.oneOf ?? [node];
    for (const [name, child] of variants.flatMap((variant) => Object.entries(variant.properties ?? {}))) {
      const key = prefix === "" ? name : `${prefix}.${name}`;
      if (child.properties !== undefined || child.oneOf !== undefined) visit(child, key);
      else if (!settings.some((setting) => setting.key === key)) settings.push({ key, node: child });
    }
  };
  visit(experimentJsonSchema(), "");
  return settings;
}

/** What a value must be, in words: `a whole number from 0 to 4096`. */
export function describeRequirement(node: SchemaNode): string {
  if (node.oneOf !== undefined) return `a table whose type is ${quoteList(variantNames(node))}`;
  const choices = node.enum ?? (node.const === undefined ? undefined : [node.const]);
  if (choices !== undefined) return choices.length === 1 ? quoteList(choices) : `one of ${quoteList(choices)}`;
  switch (node.type) {
    case "integer":
      return `a whole number${describeBounds(node)}`;
    case "number":
      return `a number${describeBounds(node)}`;
    case "boolean":
      return "true or false";
    case "string":
      return "text in quotes";
    case "array":
      return describeArray(node);
    case "object":
      return `a table with the keys ${Object.keys(node.properties ?? {}).join(", ")}`;
    default:
      return "another value";
  }
}

function describeBounds(node: SchemaNode): string {
  const { minimum, maximum } = node;
  if (minimum !== undefined && maximum !== undefined) return ` from ${minimum} to ${maximum}`;
  if (minimum !== undefined) return ` of at least ${minimum}`;
  return maximum === undefined ? "" : ` of at most ${maximum}`;
}

function describeArray(node: SchemaNode): string {
  if (node.prefixItems !== undefined) {
    const first = node.prefixItems[0];
    return `an array of ${node.prefixItems.length} elements, each ${first === undefined ? "a value" : describeRequirement(first)}`;
  }
  const { minItems, maxItems } = node;
  const size = minItems !== undefined && maxItems !== undefined ? ` with ${minItems} to ${maxItems} elements` : "";
  const items = node.items;
  if (!items) return `an array${size}`;
  return items.type === "object" ? `an array of tables${size}` : `an array${size}, each ${describeRequirement(items)}`;
}

function quoteList(values: readonly unknown[]): string {
  return values.map((value) => JSON.stringify(value)).join(", ");
}
