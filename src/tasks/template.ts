/**
 * Templates and expressions of task families: Jinja, evaluated by the library's interpreter with three changes that make
 * it safe for task folders from elsewhere and for replay:
 *
 * - nothing outside the declared parameters is visible: no clock, no environment variables, no host functions;
 * - an unknown name or an index outside a list is an error instead of an empty text;
 * - a budget of evaluated nodes ends templates that would not end by themselves.
 */

import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { AleError, errorMessage } from "../core/errors.ts";

/** What a parameter can be. */
export type Value = string | number | boolean | null | readonly Value[];

type Program = ReturnType<typeof parse>;
type Statement = Program["body"][number];
type RuntimeValue = ReturnType<Interpreter["evaluate"]>;

/** Nodes one template may evaluate; the largest of the shipped families needs a few hundred. */
const NODE_BUDGET = 50_000;
/** Characters a template may render to. */
const MAX_OUTPUT = 1 << 20;
const MAX_RANGE = 10_000;

class StrictInterpreter extends Interpreter {
  #budget = NODE_BUDGET;

  override evaluate(statement: Statement | undefined, environment: Environment): RuntimeValue {
    if (--this.#budget < 0) throw new Error(`it takes more than ${NODE_BUDGET} evaluation steps`);
    const value = super.evaluate(statement, environment);
    if (value.type === "UndefinedValue" && statement !== undefined) {
      const { type } = statement;
      if (type === "Identifier") throw new Error(`there is no parameter "${(statement as { value?: string }).value}"`);
      if (type === "MemberExpression") throw new Error("an index or attribute does not exist");
    }
    return value;
  }
}

/** Functions every template may call. Arguments of the wrong type are errors, never coerced. */
const FUNCTIONS: Readonly<Record<string, (...args: Value[]) => Value>> = {
  range: (start, stop, step) => listRange(start, stop, step),
  /** Sorted by code unit, as `LC_ALL=C sort` does for ASCII; numbers by value. */
  sorted: (list) => [...asList(list)].sort(compare),
  unique: (list) => [...new Set(asList(list))],
  sum: (list) => asList(list).reduce((total: number, item) => total + asNumber(item), 0),
  join: (list, separator) => asList(list).join(separator === undefined ? "" : asText(separator)),
  /** Each element on a line of its own. */
  lines: (list) =>
    asList(list)
      .map((item) => `${item}\n`)
      .join(""),
  repeat: (text, count) => {
    const result = asText(text).length * asNumber(count);
    if (result > MAX_OUTPUT) throw new Error(`repeat() would give ${result} characters`);
    return asText(text).repeat(asNumber(count));
  },
  index_of: (list, item) => asList(list).indexOf(item ?? null),
  /** The list without the element at `index`. */
  without: (list, index) => asList(list).filter((_, i) => i !== checkIndex(list, index)),
  /** The list with `item` put before the element at `index`; `index` may be the length. */
  insert: (list, index, item) => {
    const items = [...asList(list)];
    const at = asNumber(index);
    if (!Number.isInteger(at) || at < 0 || at > items.length) throw new Error(`insert() at ${at} of ${items.length}`);
    items.splice(at, 0, item ?? null);
    return items;
  },
  min: (list) => Math.min(...asList(list).map(asNumber)),
  max: (list) => Math.max(...asList(list).map(asNumber)),
};

const GLOBALS = makeGlobals();

function makeGlobals(): Environment {
  const globals = new Environment();
  for (const [name, value] of [
    ["true", true],
    ["false", false],
    ["none", null],
  ] as const) {
    globals.set(name, value);
  }
  for (const [name, call] of Object.entries(FUNCTIONS)) {
    // The library hands over `.value` of each argument, which for lists still holds runtime values.
    globals.set(name, (...args: unknown[]) => call(...args.map(unwrap)));
  }
  return globals;
}

/** Names that parameters may not take. */
export const RESERVED_NAMES: ReadonlySet<string> = new Set([
  ...Object.keys(FUNCTIONS),
  ..."true false none True False None loop item index namespace if else elif for in not and or is set".split(" "),
]);

/** Parameters by name, as templates see them. */
export class Scope {
  readonly environment: Environment;

  constructor(parent?: Scope) {
    this.environment = new Environment(parent?.environment ?? GLOBALS);
  }

  set(name: string, value: Value): void {
    this.environment.variables.delete(name);
    this.environment.set(name, value);
  }
}

/** A compiled text with placeholders. */
export class Template {
  readonly #source: string;
  readonly #where: string;
  readonly #program: Program | undefined;

  /**
   * @param where file and field, for messages
   * @throws `AleError("task")` when the text is not a valid template
   */
  constructor(source: string, where: string) {
    this.#source = source;
    this.#where = where;
    this.#program = isTemplate(source) ? compile(source, where) : undefined;
  }

  /** Throws `AleError("task")` naming the template when evaluation fails. */
  render(scope: Scope): string {
    if (this.#program === undefined) return this.#source;
    const text = guard(this.#where, () => new StrictInterpreter(scope.environment).run(this.#program as Program).value);
    if (typeof text !== "string" || text.length > MAX_OUTPUT) {
      throw new AleError("task", `${this.#where} renders to more than ${MAX_OUTPUT} characters`);
    }
    return text;
  }
}

/** A compiled expression: the inside of `{{ }}`, with a typed result. */
export class Expression {
  readonly #where: string;
  readonly #statement: Statement;

  constructor(source: string, where: string) {
    this.#where = where;
    const [statement, ...rest] = compile(`{{ ${source} }}`, where).body;
    if (statement === undefined || rest.length > 0) {
      throw new AleError("task", `${where}: ${JSON.stringify(source)} is not one expression`);
    }
    this.#statement = statement;
  }

  evaluate(scope: Scope): Value {
    return guard(this.#where, () =>
      unwrap(new StrictInterpreter(scope.environment).evaluate(this.#statement, scope.environment)),
    );
  }
}

/** Texts without placeholders and blocks are taken as they are, so that shell's `${#name}` is not a comment. */
export function isTemplate(text: string): boolean {
  return text.includes("{{") || text.includes("{%");
}

function compile(source: string, where: string): Program {
  return guard(where, () => {
    // Jinja drops one final line break; files must keep theirs.
    const text = source.endsWith("\n") ? `${source}\n` : source;
    return parse(tokenize(text, { lstrip_blocks: true, trim_blocks: true }));
  });
}

function guard<T>(where: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof AleError) throw error;
    throw new AleError("task", `${where}: ${errorMessage(error)}`, {
      hint: "templates are Jinja; parameters are declared in [family.parameters] and see those above them",
      cause: error,
    });
  }
}

function unwrap(value: unknown): Value {
  if (Array.isArray(value)) return value.map(unwrap);
  if (value === null || value === undefined) return null;
  if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") return value;
  if (typeof value === "object" && "value" in value) return unwrap(value.value);
  throw new Error("only texts, numbers, booleans and lists can be parameters");
}

function asList(value: Value | undefined): readonly Value[] {
  if (Array.isArray(value)) return value;
  throw new Error(`expected a list, got ${JSON.stringify(value)}`);
}

function asNumber(value: Value | undefined): number {
  if (typeof value === "number") return value;
  throw new Error(`expected a number, got ${JSON.stringify(value)}`);
}

function asText(value: Value | undefined): string {
  if (typeof value === "string") return value;
  throw new Error(`expected a text, got ${JSON.stringify(value)}`);
}

function checkIndex(list: Value | undefined, index: Value | undefined): number {
  const at = asNumber(index);
  if (!Number.isInteger(at) || at < 0 || at >= asList(list).length) {
    throw new Error(`index ${at} is outside a list of ${asList(list).length}`);
  }
  return at;
}

function compare(a: Value, b: Value): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  const [left, right] = [asText(a), asText(b)];
  return left < right ? -1 : left > right ? 1 : 0;
}

function listRange(first: Value | undefined, second: Value | undefined, third: Value | undefined): number[] {
  const [start, stop] = second === undefined ? [0, asNumber(first)] : [asNumber(first), asNumber(second)];
  const step = third === undefined ? 1 : asNumber(third);
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (step === 0 || !(count <= MAX_RANGE)) throw new Error(`range() gives more than ${MAX_RANGE} numbers`);
  return Array.from({ length: count }, (_, i) => start + i * step);
}
