/** A learning curve in braille: each character is a grid of 2 × 4 dots. */

import { type Painter, plain, type Style } from "./style.ts";

export interface Point {
  readonly x: number;
  readonly y: number;
  /** Confidence interval, drawn as a vertical bar. */
  readonly low?: number;
  readonly high?: number;
}

export interface Series {
  readonly points: readonly Point[];
  readonly style: Style;
  /** How neighbouring points are joined. */
  readonly line: "solid" | "dashed" | "none";
}

export interface ChartOptions {
  /** Size in characters, axis labels included. */
  readonly width: number;
  readonly height: number;
  readonly xMax: number;
  readonly yMin?: number;
  readonly yMax?: number;
  readonly formatY?: (value: number) => string;
}

// Dot (x, y) of a braille cell, y down: Unicode block U+2800, bit order 1 4 / 2 5 / 3 6 / 7 8.
const DOT_BITS = [
  [0x01, 0x08],
  [0x02, 0x10],
  [0x04, 0x20],
  [0x40, 0x80],
] as const;

class Canvas {
  readonly #columns: number;
  readonly #rows: number;
  readonly #bits: Uint8Array;
  readonly #styles: (Style | undefined)[];

  constructor(columns: number, rows: number) {
    this.#columns = columns;
    this.#rows = rows;
    this.#bits = new Uint8Array(columns * rows);
    this.#styles = Array.from({ length: columns * rows });
  }

  dot(x: number, y: number, style: Style): void {
    const column = x >> 1;
    const row = y >> 2;
    if (column < 0 || row < 0 || column >= this.#columns || row >= this.#rows) return;
    const cell = row * this.#columns + column;
    this.#bits[cell] = (this.#bits[cell] ?? 0) | (DOT_BITS[y & 3]?.[x & 1] ?? 0);
    this.#styles[cell] = style;
  }

  /** Bresenham's line; `dashed` leaves out two dots of four. */
  line(x0: number, y0: number, x1: number, y1: number, style: Style, dashed: boolean): void {
    const dx = Math.abs(x1 - x0);
    const dy = -Math.abs(y1 - y0);
    let [x, y, error] = [x0, y0, dx + dy];
    for (let i = 0; ; i++) {
      if (!dashed || (i & 3) < 2) this.dot(x, y, style);
      if (x === x1 && y === y1) return;
      const twice = 2 * error;
      if (twice >= dy) {
        error += dy;
        x += Math.sign(x1 - x0);
      }
      if (twice <= dx) {
        error += dx;
        y += Math.sign(y1 - y0);
      }
    }
  }

  row(row: number, paint: Painter): string {
    let text = "";
    for (let column = 0; column < this.#columns; column++) {
      const cell = row * this.#columns + column;
      const bits = this.#bits[cell] ?? 0;
      const style = this.#styles[cell];
      const character = bits === 0 ? " " : String.fromCharCode(0x2800 + bits);
      text += style === undefined || bits === 0 ? character : paint(style, character);
    }
    return text;
  }
}

/** Lines of a chart, the later series on top; x runs from 0 to `xMax`, values outside [yMin, yMax] stick to the edge. */
export function drawChart(series: readonly Series[], options: ChartOptions, paint: Painter = plain): string[] {
  const { height, xMax, yMin = 0, yMax = 1, formatY = (value) => `${Math.round(value * 100)} %` } = options;
  const labels = [yMax, (yMax + yMin) / 2, yMin].map(formatY);
  const labelWidth = Math.max(...labels.map((label) => label.length));
  const columns = Math.max(4, options.width - labelWidth - 2);
  const rows = Math.max(2, height - 1);
  const canvas = new Canvas(columns, rows);
  const toX = (x: number) => Math.round((Math.min(Math.max(x, 0), xMax) / Math.max(1, xMax)) * (columns * 2 - 1));
  const toY = (y: number) =>
    Math.round((1 - (Math.min(Math.max(y, yMin), yMax) - yMin) / (yMax - yMin || 1)) * (rows * 4 - 1));
  for (const one of series) plotSeries(canvas, one, toX, toY);
  const lines = Array.from({ length: rows }, (_, row) => {
    const label = row === 0 ? labels[0] : row === rows - 1 ? labels[2] : row === rows >> 1 ? labels[1] : "";
    return `${paint("dim", `${(label ?? "").padStart(labelWidth)} ${label ? "┤" : "│"}`)}${canvas.row(row, paint)}`;
  });
  const end = `step ${xMax}`;
  const axis = `${" ".repeat(labelWidth + 2)}0${end.padStart(columns - 1)}`;
  return [...lines, paint("dim", axis)];
}

function plotSeries(canvas: Canvas, series: Series, toX: (x: number) => number, toY: (y: number) => number): void {
  const points = series.points.filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y));
  let previous: Point | undefined;
  for (const point of points) {
    const x = toX(point.x);
    const y = toY(point.y);
    if (previous !== undefined && series.line !== "none") {
      canvas.line(toX(previous.x), toY(previous.y), x, y, series.style, series.line === "dashed");
    }
    if (point.low !== undefined && point.high !== undefined) {
      canvas.line(x, toY(point.low), x, toY(point.high), series.style, false);
    }
    canvas.dot(x, y, series.style);
    previous = point;
  }
}

const BLOCKS = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"] as const;

/** A horizontal bar of `share` (0 to 1) of `width` characters, in eighths. */
export function drawBar(share: number, width: number): string {
  const eighths = Math.round(Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0)) * width * 8);
  return "█".repeat(eighths >> 3) + (BLOCKS[eighths & 7] ?? "");
}
