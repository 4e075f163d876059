/** Many rows into one table. drizzle builds its SQL anew for every call, which cost more than SQLite's own work here. */

import type { InValue, Transaction } from "@libsql/client/sqlite3";
import { getTableColumns, getTableName } from "drizzle-orm";
import type { SQLiteTable } from "drizzle-orm/sqlite-core";

/** Rows per INSERT: larger ones are not faster, and SQLite takes at most 32766 values. */
export const ROWS = 100;

export function* chunks<T>(items: readonly T[], size: number): Generator<T[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size);
}

interface Shape {
  readonly keys: readonly string[];
  /** The statement up to its rows. */
  readonly head: string;
  /** The placeholders of one row. */
  readonly row: string;
  /** The statement for `ROWS` rows. */
  readonly full: string;
}

const shapes = new WeakMap<SQLiteTable, Shape>();

function shapeOf(table: SQLiteTable): Shape {
  const known = shapes.get(table);
  if (known !== undefined) return known;
  const columns = Object.entries(getTableColumns(table));
  const names = columns.map(([, column]) => `"${column.name}"`).join(", ");
  const head = `INSERT INTO "${getTableName(table)}" (${names}) VALUES `;
  const row = `(${columns.map(() => "?").join(",")})`;
  const shape = { keys: columns.map(([key]) => key), head, row, full: head + repeat(row, ROWS) };
  shapes.set(table, shape);
  return shape;
}

function repeat(row: string, count: number): string {
  return Array.from({ length: count }, () => row).join(",");
}

/** Values must be of SQLite's own types and every column must be there: drizzle's conversions and defaults do not apply. */
export async function insertRows<T extends SQLiteTable>(
  transaction: Transaction,
  table: T,
  rows: readonly Required<{ readonly [K in keyof T["$inferInsert"]]: InValue }>[],
): Promise<void> {
  const { keys, head, row, full } = shapeOf(table);
  for (const some of chunks(rows, ROWS)) {
    const args: InValue[] = [];
    for (const values of some as readonly Readonly<Record<string, InValue>>[]) {
      for (const key of keys) args.push(values[key] ?? null);
    }
    await transaction.execute({ sql: some.length === ROWS ? full : head + repeat(row, some.length), args });
  }
}
