import { isTable } from "./schema-tree.ts";

/**
 * Later layers win: tables merge key by key, everything else (arrays too) is replaced. A table whose `type` changes is
 * replaced as a whole, because the keys of one variant mean nothing to another.
 */
export function mergeTables(
  base: Readonly<Record<string, unknown>>,
  layer: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(layer)) {
    const current = Object.hasOwn(merged, key) ? merged[key] : undefined;
    const isSameVariant =
      isTable(current) && isTable(value) && (value.type === undefined || value.type === current.type);
    const next = isTable(current) && isTable(value) && isSameVariant ? mergeTables(current, value) : value;
    Object.defineProperty(merged, key, { value: next, enumerable: true, writable: true, configurable: true });
  }
  return merged;
}
