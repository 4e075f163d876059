/** Aligned tables for `ale runs ls`, `ale eval`, `ale tasks check`. */

import { sanitizeLine } from "./sanitize.ts";
import { type Painter, plain, type Style } from "./style.ts";

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  readonly align?: "left" | "right";
  readonly style?: (row: Row) => Style | undefined;
}

/** Cells pass through the sanitizer; columns are as wide as their widest cell, at most 60. */
export function formatTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  paint: Painter = plain,
): string {
  const cells = rows.map((row) => columns.map((column) => sanitizeLine(column.value(row), 60)));
  const widths = columns.map((column, index) =>
    Math.max(Bun.stringWidth(column.title), ...cells.map((line) => Bun.stringWidth(line[index] ?? ""))),
  );
  const format = (line: readonly string[], style: (index: number) => Style | undefined): string =>
    line
      .map((cell, index) => {
        const padding = " ".repeat((widths[index] ?? 0) - Bun.stringWidth(cell));
        const chosen = style(index);
        const text = chosen === undefined ? cell : paint(chosen, cell);
        return columns[index]?.align === "right" ? padding + text : text + padding;
      })
      .join("  ")
      .trimEnd();
  const header = format(
    columns.map((column) => column.title),
    () => "dim",
  );
  return [header, ...cells.map((line, row) => format(line, (index) => styleOf(columns[index], rows[row])))].join("\n");
}

function styleOf<Row>(column: Column<Row> | undefined, row: Row | undefined): Style | undefined {
  return column === undefined || row === undefined ? undefined : column.style?.(row);
}
