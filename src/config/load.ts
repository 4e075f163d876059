/**
 * From files and command line to one resolved experiment: defaults < first file < … < last file < dotted overrides.
 * Every error names the file with line, or the option, the dotted key, what was found and what is allowed.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { parse, TomlError } from "smol-toml";
import type { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import { embeddedExperiments, findEmbedded } from "./embedded.ts";
import { type Experiment, ExperimentSchema } from "./experiment.ts";
import { mergeTables } from "./merge.ts";
import { applyOverride, orderOverrides, parseOverride } from "./overrides.ts";
import { describeProblem, type Layer } from "./problems.ts";
import { stringifyExperiment } from "./resolved-toml.ts";
import { experimentJsonSchema, isTable, variantNames } from "./schema-tree.ts";
import { findKeyLines } from "./toml-lines.ts";

/** A setting that differs from its default. */
export interface ChangedSetting {
  readonly key: string;
  readonly value: unknown;
  /** `undefined` where the setting has no default. */
  readonly default: unknown;
}

export interface LoadedExperiment {
  readonly experiment: Experiment;
  readonly changed: readonly ChangedSetting[];
  /** See `configHash`. */
  readonly hash: string;
  /** The resolved experiment as commented TOML. */
  readonly toml: string;
}

export interface LoadOptions {
  readonly files: readonly string[];
  /** `key=text`, `--key=text`, or a bare boolean key. */
  readonly overrides?: readonly string[];
}

const MAX_FILE_BYTES = 1 << 20;
const MAX_PROBLEMS = 10;

/**
 * Loads, merges and checks an experiment.
 * @throws AleError("config") naming file and line (or option), key, value and what is allowed.
 */
export function loadExperiment({ files, overrides = [] }: LoadOptions): LoadedExperiment {
  return resolveLayers(files.map(readLayer), overrides);
}

/** As `loadExperiment`, for layers that were read already. */
export function resolveLayers(layers: readonly Layer[], overrides: readonly string[]): LoadedExperiment {
  const recipe = layers.find(({ table }) => "stages" in table);
  if (recipe !== undefined) {
    throw new AleError("config", `${recipe.name} has stages: it is a recipe of several runs, not one experiment`, {
      hint: `ale run ${recipe.name} runs them one after the other`,
    });
  }
  let merged = layers.reduce((base, layer) => mergeTables(base, layer.table), {} as Record<string, unknown>);
  const parsed = orderOverrides(overrides.map(parseOverride));
  for (const override of parsed) merged = applyOverride(merged, override);
  const raw = fillVariants(merged);
  const result = ExperimentSchema.safeParse(raw);
  if (result.success) return resolveExperiment(result.data);
  throw configError(result.error.issues, raw, layers, new Set(parsed.map(({ path }) => path.join("."))));
}

/**
 * Reads one experiment from text, such as the resolved one that a run keeps.
 * @throws AleError("config") as `loadExperiment`; `name` is what messages call the text.
 */
export function parseExperiment(name: string, toml: string, overrides: readonly string[] = []): LoadedExperiment {
  return resolveLayers([parseLayer(name, toml)], overrides);
}

/** Hash, changed settings and TOML of an experiment that was already checked. */
export function resolveExperiment(experiment: Experiment): LoadedExperiment {
  return {
    experiment,
    changed: changedSettings(experiment),
    hash: configHash(experiment),
    toml: stringifyExperiment(experiment),
  };
}

/** Sha256 (hex) of the resolved experiment as JSON with sorted keys: equal settings give equal hashes. */
export function configHash(experiment: Experiment): string {
  return createHash("sha256").update(canonicalJson(experiment)).digest("hex");
}

function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (!isTable(value)) return JSON.stringify(value);
  const keys = Object.keys(value).filter((key) => value[key] !== undefined);
  return `{${keys
    .sort()
    .map((key) => `${JSON.stringify(key)}:${canonicalJson(value[key])}`)
    .join(",")}}`;
}

/** Settings whose value differs from the default, in the order of the schema; dotted keys. */
export function changedSettings(experiment: Experiment): ChangedSetting[] {
  const type = experiment.algorithm.type;
  const defaults = flatten({
    ...ExperimentSchema.parse({}),
    algorithm: ExperimentSchema.parse({ algorithm: { type } }).algorithm,
  });
  defaults.set("algorithm.type", ExperimentSchema.parse({}).algorithm.type);
  return [...flatten(experiment)].flatMap(([key, value]) =>
    canonicalJson(value) === canonicalJson(defaults.get(key) ?? null)
      ? []
      : [{ key, value, default: defaults.get(key) }],
  );
}

/** Dotted keys that the TOML of an experiment does not have, or has with another value. */
export function keysOtherThan(name: string, toml: string, experiment: Experiment): string[] {
  return differingKeys(parseLayer(name, toml).table, experiment);
}

/** Dotted keys whose values differ between two experiments. */
export function differingKeys(a: Readonly<Record<string, unknown>>, b: Readonly<Record<string, unknown>>): string[] {
  const before = flatten(a);
  const after = flatten(b);
  return [...new Set([...before.keys(), ...after.keys()])].filter(
    (key) => canonicalJson(before.get(key) ?? null) !== canonicalJson(after.get(key) ?? null),
  );
}

function flatten(table: Readonly<Record<string, unknown>>, prefix = "", into = new Map<string, unknown>()) {
  for (const [name, value] of Object.entries(table)) {
    const key = prefix === "" ? name : `${prefix}.${name}`;
    if (isTable(value)) flatten(value, key, into);
    else if (value !== undefined) into.set(key, value);
  }
  return into;
}

/** An experiment file as a layer of settings. */
export function readLayer(path: string): Layer {
  const { name, text } = readExperimentText(path);
  return parseLayer(name, text);
}

function parseLayer(name: string, text: string): Layer {
  try {
    return { name, table: parse(text), lines: findKeyLines(text) };
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = (error.message.split("\n")[0] ?? "").replace(/^Invalid TOML document: /, "");
    throw new AleError(
      "config",
      `${name}:${error.line}:${error.column}: not valid TOML: ${reason}\n\n${error.codeblock.trimEnd()}`,
      { hint: `correct line ${error.line} of ${name}`, cause: error },
    );
  }
}

function readExperimentText(path: string): { name: string; text: string } {
  try {
    const bytes = readFileSync(path);
    if (bytes.length > MAX_FILE_BYTES)
      throw new AleError("config", `${path} has ${bytes.length} bytes; an experiment has at most ${MAX_FILE_BYTES}`);
    return { name: path, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
  } catch (error) {
    if (error instanceof AleError) throw error;
    const embedded = errorCode(error) === "ENOENT" ? findEmbedded(path) : undefined;
    if (embedded !== undefined) return embedded;
    throw unreadable(path, error);
  }
}

function unreadable(path: string, cause: unknown): AleError {
  const embedded = [...embeddedExperiments().keys()].map((name) => `experiments/${name}`);
  const hint =
    embedded.length > 0 ? `these come with Ale: ${embedded.join(", ")}` : "give the path of an experiment file (TOML)";
  switch (errorCode(cause)) {
    case "ENOENT":
    case "ENOTDIR":
      return new AleError("config", `there is no experiment file ${path}`, { hint, cause });
    case "EISDIR":
      return new AleError("config", `${path} is a folder, not an experiment file`, { hint, cause });
    case "EACCES":
    case "EPERM":
      return new AleError("config", `${path} may not be read by this user`, { hint: `check ls -l ${path}`, cause });
    default:
      return cause instanceof TypeError
        ? new AleError("config", `${path} is not UTF-8 text`, { hint, cause })
        : new AleError("config", `cannot read ${path}: ${errorMessage(cause)}`, { hint, cause });
  }
}

function errorCode(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

/** A union without a `type` gets the default one, so that `[algorithm]` may set only what differs. */
function fillVariants(table: Record<string, unknown>): Record<string, unknown> {
  const filled = { ...table };
  for (const [name, node] of Object.entries(experimentJsonSchema().properties ?? {})) {
    const value = filled[name];
    if (node.oneOf === undefined || !isTable(value) || value.type !== undefined) continue;
    filled[name] = { ...(isTable(node.default) ? node.default : { type: variantNames(node)[0] }), ...value };
  }
  return filled;
}

function configError(
  issues: readonly z.core.$ZodIssue[],
  raw: Record<string, unknown>,
  layers: readonly Layer[],
  overridden: ReadonlySet<string>,
): AleError {
  const problems = [...new Set(issues.flatMap((issue) => describeProblem(issue, raw, layers, overridden)))];
  const shown = problems.slice(0, MAX_PROBLEMS);
  if (problems.length > shown.length) shown.push(`… and ${problems.length - shown.length} more`);
  const message =
    shown.length === 1 ? (shown[0] ?? "") : `the experiment has ${problems.length} problems\n  ${shown.join("\n  ")}`;
  return new AleError("config", message, { hint: "ale config show prints every setting with its default and bounds" });
}
