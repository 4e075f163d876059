/**
 * `task.toml`: Harbor's schema 1.4 (older `version = "1.0"` files load too), plus what Ale adds: `environment.profile`,
 * `environment.pids`, `environment.least_isolation`, `agent.command_timeout_sec`, and the `[family]` table. Harbor: https://harborframework.com/docs/task-format
 */

import { parse, TomlError } from "smol-toml";
import { z } from "zod";
import { suggest } from "../config/suggest.ts";
import { findKeyLines, lineOf } from "../config/toml-lines.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import { ISOLATION_STEPS } from "../core/isolation.ts";
import { RESERVED_NAMES } from "./template.ts";

const seconds = z.number().min(0.05).max(86_400);
const positive = z.number().int().min(1);
/** A literal, or an expression over the parameters above. */
const integer = z.union([z.number().int(), z.string()]);
const count = z.union([
  z.number().int().min(0),
  z.tuple([z.number().int().min(0), z.number().int().min(0)]),
  z.string(),
]);
type Json = string | number | boolean | readonly Json[];
const json: z.ZodType<Json> = z.lazy(() => z.union([z.string(), z.number(), z.boolean(), z.array(json)]));
const list = z.union([z.array(json).min(1), z.string()]);
const modeBits = z
  .string()
  .regex(/^[0-7]{3}$/, 'three octal digits, e.g. "755"')
  .transform((digits) => Number.parseInt(digits, 8));

const ParameterSchema = z.discriminatedUnion("type", [
  /** A pseudo-word of the split. */
  z.strictObject({ type: z.literal("word"), syllables: positive.max(6).optional() }),
  /** A list of them; with `each`, one list per element of another list. */
  z.strictObject({
    type: z.literal("words"),
    count,
    each: z.string().optional(),
    syllables: positive.max(6).optional(),
  }),
  /** A number of the split. */
  z.strictObject({ type: z.literal("number"), min: z.number().int(), max: z.number().int() }),
  z.strictObject({ type: z.literal("numbers"), count, min: z.number().int(), max: z.number().int() }),
  /** Any integer in [min, max]: indices, sizes, counts. Shared by all splits. */
  z.strictObject({ type: z.literal("int"), min: integer, max: integer }),
  /** One element of a list. */
  z.strictObject({ type: z.literal("choice"), from: list }),
  /** Distinct elements of a list in random order. */
  z.strictObject({ type: z.literal("sample"), from: list, count }),
  /** All elements of a list in random order. */
  z.strictObject({ type: z.literal("shuffle"), from: list }),
  /** An expression over the parameters above. */
  z.strictObject({ type: z.literal("value"), of: z.string() }),
]);

const FamilyFileSchema = z.strictObject({
  path: z.string().min(1),
  content: z.string().default(""),
  mode: modeBits.default(0o644),
  /** A list; the entry stands for one file per element, which templates see as `item` and `index`. */
  each: z.string().optional(),
  /** Whether the file is part of this instance. */
  when: z.string().optional(),
});

const FamilySchema = z.strictObject({
  parameters: z
    .record(z.string().regex(/^[a-z_][a-z0-9_]*$/, "lower-case letters, digits and _"), ParameterSchema)
    .default({}),
  /** Files of the working directory; `expected` says whether a solved instance still has them, unchanged. */
  files: z.array(FamilyFileSchema.extend({ expected: z.union([z.boolean(), z.string()]).default(true) })).default([]),
  /** What a solved instance has besides; with the unchanged files it makes `tests/expected/`. */
  expected: z.array(FamilyFileSchema).default([]),
  demonstrations: z
    .array(
      z.strictObject({
        kind: z.enum(["expert", "mistake"]),
        weight: z.number().positive().default(1),
        when: z.string().optional(),
        /** One command per line; a line is a turn. */
        commands: z.string(),
      }),
    )
    .default([]),
});

/** Of the whole task below `environment`; below `agent` and `verifier` of that phase. */
const NETWORK = {
  network_mode: z.enum(["no-network", "allowlist", "public"]).optional(),
  /** Hosts, `*.host`, addresses and ranges; each may end in `:port`. */
  allowed_hosts: z.array(z.string().min(1)).default([]),
};

const EnvironmentShape = z.strictObject({
  profile: z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]*$/, 'the name of a sandbox profile, e.g. "host"')
    .optional(),
  /** An image that was imported under this name; in the place of a profile. */
  docker_image: z.string().min(1).optional(),
  workdir: z.string().startsWith("/").default("/work"),
  cpus: z.number().min(0.1).max(1024).default(1),
  memory_mb: positive.default(256),
  storage_mb: positive.default(64),
  pids: positive.default(64),
  least_isolation: z.enum(ISOLATION_STEPS).optional(),
  os: z.literal("linux").default("linux"),
  ...NETWORK,
  /** Older name of `network_mode`: true is "public". */
  allow_internet: z.boolean().optional(),
  build_timeout_sec: z.number().optional(),
});

const EnvironmentSchema = EnvironmentShape.superRefine(({ profile, docker_image: image }, context) => {
  if (profile === undefined && image === undefined)
    context.addIssue({ code: "custom", path: ["profile"], message: "the name of a sandbox profile" });
});

const AgentSchema = z.strictObject({
  timeout_sec: seconds.default(600),
  command_timeout_sec: seconds.default(60),
  ...NETWORK,
});
const VerifierSchema = z.strictObject({ timeout_sec: seconds.default(600), ...NETWORK });
const TaskInfoSchema = z.looseObject({
  name: z.string().optional(),
  description: z.string().default(""),
});

const TaskFileSchema = z.strictObject({
  schema_version: z.string().optional(),
  version: z.string().optional(),
  source: z.string().optional(),
  task: TaskInfoSchema.prefault({}),
  metadata: z.record(z.string(), z.unknown()).default({}),
  environment: EnvironmentSchema,
  agent: AgentSchema.prefault({}),
  verifier: VerifierSchema.prefault({}),
  solution: z.strictObject({}).prefault({}),
  family: FamilySchema.optional(),
});

export type TaskFile = z.infer<typeof TaskFileSchema>;
export type FamilyFile = z.infer<typeof FamilyFileSchema>;
export type FamilyTable = z.infer<typeof FamilySchema>;
export type ParameterTable = z.infer<typeof ParameterSchema>;
export type CountTable = z.infer<typeof count>;

/** Parts of Harbor's format that Ale does not run yet, with what to say about them. */
const UNSUPPORTED: readonly (readonly [path: string, reason: string])[] = [
  ["environment.gpus", "sandboxes have no GPUs"],
  ["environment.gpu_types", "sandboxes have no GPUs"],
  ["environment.tpu", "sandboxes have no TPUs"],
  ["environment.mcp_servers", "MCP servers are not supported yet"],
  ["environment.skills_dir", "skills are not supported yet"],
  ["environment.env", "environment variables of tasks are not supported yet; nothing of the host is ever passed on"],
  ["environment.healthcheck", "health checks are not supported yet"],
  ["agent.user", "commands run as the sandbox's one user"],
  [
    "verifier.env",
    "environment variables of the verifier are not supported yet; nothing of the host is ever passed on",
  ],
  ["verifier.environment", "a separate verifier image is not supported yet"],
  ["verifier.environment_mode", "a separate verifier image is not supported yet"],
  ["verifier.collect", "collect hooks are not supported yet"],
  ["solution.env", "environment variables of the solution are not supported yet"],
  ["steps", "tasks of several steps are not supported yet"],
  ["artifacts", "artifacts are not supported yet"],
];

/**
 * Parses and checks a `task.toml`.
 *
 * @param name how messages name the file, e.g. `tasks/shell/cfg/task.toml`
 * @throws `AleError("task")` naming file, line and field
 */
export function parseTaskFile(text: string, name: string): TaskFile {
  let table: Record<string, unknown>;
  try {
    table = parse(text);
  } catch (error) {
    const where = error instanceof TomlError ? `${name}:${error.line}:${error.column}` : name;
    throw new AleError("task", `${where}: ${errorMessage(error).split("\n")[0]}`, { hint: "correct the TOML syntax" });
  }
  const lines = findKeyLines(text);
  const at = (path: readonly (string | number)[]) => {
    const line = lineOf(lines, path);
    return line === undefined ? name : `${name}:${line}`;
  };
  for (const [path, reason] of UNSUPPORTED) {
    const keys = path.split(".");
    if (isAsked(keys.reduce<unknown>((value, key) => (isTable(value) ? value[key] : undefined), table))) {
      throw new AleError("task", `${at(keys)}: ${path}: ${reason}`, { hint: `remove ${path}` });
    }
  }
  dropUnused(table);
  const result = TaskFileSchema.safeParse(table);
  if (!result.success) {
    const problems = result.error.issues.flatMap((issue) => describe(issue, at, table));
    throw new AleError("task", problems.join("\n"), { hint: hintFor(problems, name) });
  }
  for (const key of Object.keys(result.data.family?.parameters ?? {})) {
    if (RESERVED_NAMES.has(key)) {
      const where = at(["family", "parameters", key]);
      throw new AleError("task", `${where}: ${key} is the name of a template function`, {
        hint: "rename the parameter",
      });
    }
  }
  return result.data;
}

/** Unsupported settings that ask for nothing (`gpus = 0`) are taken as absent. */
function dropUnused(table: Record<string, unknown>): void {
  for (const [path] of UNSUPPORTED) {
    const keys = path.split(".");
    const last = keys.pop() as string;
    const parent = keys.reduce<unknown>((value, key) => (isTable(value) ? value[key] : undefined), table);
    if (isTable(parent)) delete parent[last];
  }
}

function isAsked(value: unknown): boolean {
  if (value === undefined || value === false || value === 0 || value === "" || value === "shared") return false;
  if (Array.isArray(value)) return value.length > 0;
  return !isTable(value) || Object.keys(value).length > 0;
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function describe(issue: z.core.$ZodIssue, at: (path: (string | number)[]) => string, table: unknown): string[] {
  const path = issue.path.map((part) => (typeof part === "symbol" ? String(part) : part));
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => {
      const near = suggest(key, KNOWN_KEYS);
      return `${at([...path, key])}: unknown key ${[...path, key].join(".")}${near === undefined ? "" : `; did you mean ${near}?`}`;
    });
  }
  const found = path.reduce<unknown>(
    (value, key) => (value as Record<string | number, unknown> | undefined)?.[key],
    table,
  );
  const subject = path.join(".");
  if (subject === "environment.profile" && found === undefined) {
    return [`${at(["environment"])}: environment.profile is missing: a task names the sandbox profile it was made for`];
  }
  if (found === undefined && issue.code !== "custom") return [`${at(path)}: ${subject} is missing (${issue.message})`];
  return [`${at(path)}: ${subject} is ${JSON.stringify(found)}: ${issue.message}`];
}

function hintFor(problems: readonly string[], name: string): string {
  if (problems.some((problem) => problem.includes("environment.profile is missing"))) {
    return 'add profile = "host" to [environment] if the task works on this machine\'s own programs';
  }
  return `correct ${name}`;
}

const KNOWN_KEYS: readonly string[] = [
  ...Object.keys(TaskFileSchema.shape),
  ...Object.keys(EnvironmentShape.shape),
  ...Object.keys(AgentSchema.shape),
  ...Object.keys(FamilySchema.shape),
  ...Object.keys(FamilyFileSchema.shape),
  ...["expected", "kind", "weight", "commands", "type", "count", "min", "max", "from", "of", "syllables"],
];
