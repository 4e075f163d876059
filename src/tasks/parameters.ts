/** The parameters of a task family: how each is drawn. */

import { AleError } from "../core/errors.ts";
import type { Rng } from "../core/rng.ts";
import type { CountTable, ParameterTable } from "./schema.ts";
import { Expression, Scope, type Value } from "./template.ts";
import type { ContentPool } from "./words.ts";

/** What an instance is drawn from. */
export interface Draw {
  readonly scope: Scope;
  readonly pool: ContentPool;
  readonly rng: Rng;
}

export type Drawer = (draw: Draw) => Value;

/** Elements a list parameter may have. */
const MAX_COUNT = 10_000;

/** Turns one entry of `[family.parameters]` into a function. `where` names it in messages. */
export function compileParameter(table: ParameterTable, where: string): Drawer {
  switch (table.type) {
    case "word":
      return ({ pool }) => pool.word(table.syllables);
    case "words":
      return compileWords(table, where);
    case "number":
      return ({ pool }) => pool.number(table.min, table.max);
    case "numbers": {
      const count = compileCount(table.count, `${where}.count`);
      return (draw) => repeat(count(draw), () => draw.pool.number(table.min, table.max));
    }
    case "int": {
      const [min, max] = [compileInteger(table.min, `${where}.min`), compileInteger(table.max, `${where}.max`)];
      return (draw) => drawInteger(draw.rng, min(draw), max(draw), where);
    }
    case "choice": {
      const from = compileList(table.from, `${where}.from`);
      return (draw) => draw.rng.pick(from(draw));
    }
    case "sample": {
      const from = compileList(table.from, `${where}.from`);
      const count = compileCount(table.count, `${where}.count`);
      return (draw) => {
        const [all, wanted] = [from(draw), count(draw)];
        if (wanted > all.length) throw new AleError("task", `${where}: ${wanted} elements of a list of ${all.length}`);
        return draw.rng.shuffle(all).slice(0, wanted);
      };
    }
    case "shuffle": {
      const from = compileList(table.from, `${where}.from`);
      return (draw) => draw.rng.shuffle(from(draw));
    }
    case "value": {
      const expression = new Expression(table.of, `${where}.of`);
      return ({ scope }) => expression.evaluate(scope);
    }
  }
}

function compileWords(table: Extract<ParameterTable, { type: "words" }>, where: string): Drawer {
  const count = compileCount(table.count, `${where}.count`);
  const words = (draw: Draw) => repeat(count(draw), () => draw.pool.word(table.syllables));
  if (table.each === undefined) return words;
  const each = compileList(table.each, `${where}.each`);
  return (draw) => each(draw).map((item, index) => words({ ...draw, scope: elementScope(draw.scope, item, index) }));
}

/** The scope of one element of an `each` list. */
export function elementScope(parent: Scope, item: Value, index: number): Scope {
  const scope = new Scope(parent);
  scope.set("item", item);
  scope.set("index", index);
  return scope;
}

/** An expression that must give a list. */
export function compileList(
  source: string | readonly Value[],
  where: string,
): (draw: { scope: Scope }) => readonly Value[] {
  if (typeof source !== "string") return () => source;
  const expression = new Expression(source, where);
  return ({ scope }) => {
    const value = expression.evaluate(scope);
    if (!Array.isArray(value))
      throw new AleError("task", `${where}: ${source} is ${JSON.stringify(value)}, not a list`);
    return value;
  };
}

/** An expression that must give true or false. */
export function compileCondition(source: string | boolean, where: string): (scope: Scope) => boolean {
  if (typeof source === "boolean") return () => source;
  const expression = new Expression(source, where);
  return (scope) => {
    const value = expression.evaluate(scope);
    if (typeof value !== "boolean") {
      throw new AleError("task", `${where}: ${source} is ${JSON.stringify(value)}, not true or false`);
    }
    return value;
  };
}

function compileInteger(source: number | string, where: string): (draw: Draw) => number {
  if (typeof source === "number") return () => source;
  const expression = new Expression(source, where);
  return ({ scope }) => {
    const value = expression.evaluate(scope);
    if (!Number.isInteger(value))
      throw new AleError("task", `${where}: ${source} is ${JSON.stringify(value)}, not an integer`);
    return value as number;
  };
}

function compileCount(source: CountTable, where: string): (draw: Draw) => number {
  if (Array.isArray(source)) {
    const [min, max] = source;
    return ({ rng }) => drawInteger(rng, min, max, where);
  }
  const integer = compileInteger(source as number | string, where);
  return (draw) => {
    const value = integer(draw);
    if (value < 0 || value > MAX_COUNT)
      throw new AleError("task", `${where}: ${value} is not between 0 and ${MAX_COUNT}`);
    return value;
  };
}

function drawInteger(rng: Rng, min: number, max: number, where: string): number {
  if (min > max) throw new AleError("task", `${where}: the range ${min} to ${max} is empty`);
  return rng.int(min, max);
}

function repeat<T>(count: number, make: () => T): T[] {
  return Array.from({ length: count }, make);
}
