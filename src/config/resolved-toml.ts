/** Writes a resolved experiment as TOML that a person can read: every setting, with its description and bounds. */

import { stringify } from "smol-toml";
import { componentsRead, composeAlgorithm } from "./composition.ts";
import type { Experiment } from "./experiment.ts";
import { chooseVariant, experimentJsonSchema, isTable, type SchemaNode } from "./schema-tree.ts";

interface Line {
  readonly code: string;
  readonly comment: string;
}

/** TOML text that parses to `experiment` again; optional settings without a value appear as comments. */
export function stringifyExperiment(experiment: Experiment): string {
  return `${tableBlocks(experiment, experimentJsonSchema(), "", effectiveSettings(experiment)).join("\n\n")}\n`;
}

/**
 * What settings without a value come to, by the table they are in: those of an algorithm follow from its type. Keys that
 * are in neither mean nothing to it and are left out.
 */
function effectiveSettings({ algorithm }: Experiment): ReadonlyMap<string, Readonly<Record<string, unknown>>> {
  const composition: Readonly<Record<string, unknown>> = composeAlgorithm(algorithm);
  return new Map([["algorithm", Object.fromEntries(componentsRead(algorithm).map((key) => [key, composition[key]]))]]);
}

function tableBlocks(
  table: Readonly<Record<string, unknown>>,
  node: SchemaNode,
  prefix: string,
  effective: ReadonlyMap<string, Readonly<Record<string, unknown>>>,
): string[] {
  const implied = effective.get(prefix);
  const properties = chooseVariant(node, table)?.properties ?? {};
  const lines: Line[] = [];
  const below: string[] = [];
  for (const [name, child] of Object.entries(properties)) {
    const value = table[name];
    const key = prefix === "" ? name : `${prefix}.${name}`;
    if (isTable(value)) {
      const [own, ...nested] = tableBlocks(value, child, key, effective);
      below.push(`${commentAbove(child)}[${key}]\n${own ?? ""}`, ...nested);
    } else if (isTableArray(value, child)) {
      below.push(...value.map((item, index) => arrayItem(item, child, key, index)));
    } else if (value !== undefined || implied === undefined || name in implied) {
      lines.push(settingLine(name, value, child, implied?.[name]));
    }
  }
  return [alignComments(lines), ...below];
}

function arrayItem(item: Record<string, unknown>, node: SchemaNode, key: string, index: number): string {
  const blocks = node.items ? tableBlocks(item, node.items, key, new Map()) : [];
  return `${index === 0 ? commentAbove(node) : ""}[[${key}]]\n${blocks.join("\n")}`;
}

function isTableArray(value: unknown, node: SchemaNode): value is Record<string, unknown>[] {
  return Array.isArray(value) && value.length > 0 && Boolean(node.items) && value.every(isTable);
}

function settingLine(name: string, value: unknown, node: SchemaNode, implied: unknown): Line {
  const code = value === undefined ? `# ${inline(name, implied)}` : stringify({ [name]: value }).trimEnd();
  return { code, comment: [node.description, choices(node)].filter(Boolean).join("; ") };
}

/** `name = value`, with a table as one line. */
function inline(name: string, value: unknown): string {
  if (value === undefined) return `${name} =`;
  if (!isTable(value)) return stringify({ [name]: value }).trimEnd();
  const entries = Object.entries(value).map(([key, part]) => inline(key, part));
  return `${name} = { ${entries.join(", ")} }`;
}

function choices(node: SchemaNode): string {
  const { minimum, maximum } = node;
  if (node.enum !== undefined) return node.enum.join(" | ");
  if (minimum === undefined || minimum <= -Number.MAX_SAFE_INTEGER) return "";
  return maximum === undefined || maximum >= Number.MAX_SAFE_INTEGER ? `≥ ${minimum}` : `${minimum} to ${maximum}`;
}

function commentAbove(node: SchemaNode): string {
  return node.description === undefined ? "" : `# ${node.description}\n`;
}

function alignComments(lines: readonly Line[]): string {
  const width = Math.min(44, Math.max(0, ...lines.map((line) => line.code.length)));
  return lines.map(({ code, comment }) => (comment === "" ? code : `${code.padEnd(width)}  # ${comment}`)).join("\n");
}
