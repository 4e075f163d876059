/** Line charts as SVG, drawn without a library: axes with units, grid, bands, lines, marks, legend. */

import { type Html, type HtmlValue, html } from "./html.ts";
import { extent, linearScale, logScale, type Scale } from "./scale.ts";

export interface Point {
  readonly x: number;
  readonly y: number | null;
}

export interface BandPoint {
  readonly x: number;
  readonly low: number;
  readonly high: number;
}

/** `tone` names a colour of the style sheet. */
export type Layer =
  | {
      readonly kind: "line";
      readonly name: string;
      readonly tone: string;
      readonly points: readonly Point[];
      readonly style?: "plain" | "faint" | "dashed" | "dotted";
      readonly markers?: boolean;
    }
  | { readonly kind: "band"; readonly name: string; readonly tone: string; readonly points: readonly BandPoint[] }
  | { readonly kind: "mark"; readonly tone: string; readonly x: number; readonly y: number; readonly label: string };

export interface ChartOptions {
  readonly title: string;
  readonly width: number;
  readonly height: number;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly format: (value: number) => string;
  readonly layers: readonly Layer[];
  readonly yDomain?: readonly [number, number];
  readonly log?: boolean;
  readonly includeZero?: boolean;
  /** A horizontal line that the values should stay below. */
  readonly limit?: { readonly y: number; readonly label: string };
}

const LEFT = 58;
const RIGHT = 16;
const TOP = 30;
const BOTTOM = 40;
/** About the width of a character of a label. */
const CHARACTER = 6.4;
/** Points drawn per line; longer ones are thinned out, which no eye can tell at this width. */
const MAX_POINTS = 1200;

interface Frame {
  readonly x: Scale;
  readonly y: Scale;
  readonly options: ChartOptions;
}

export function renderChart(options: ChartOptions): Html {
  const frame = layOut(options);
  const { width, height, title } = options;
  const drawn = options.layers.map((layer) => drawLayer(layer, frame));
  return html`<svg class="chart" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}">
<title>${title}</title>
${grid(frame)}${options.limit && drawLimit(options.limit, frame)}${drawn}${axes(frame)}${legend(options)}
</svg>`;
}

function layOut(options: ChartOptions): Frame {
  const { width, height, layers, log = false, includeZero = false } = options;
  const ys = layers.flatMap((layer) => layerValues(layer));
  if (options.limit !== undefined) ys.push(options.limit.y);
  const xs = layers.flatMap((layer) => ("points" in layer ? layer.points.map((point) => point.x) : [layer.x]));
  const [bottom, top] = [height - BOTTOM, TOP];
  const positive = ys.filter((value) => value !== null && value > 0) as number[];
  const y = log
    ? logScale(positive.length === 0 ? [0.1, 1] : [Math.min(...positive), Math.max(...positive)], bottom, top)
    : linearScale(options.yDomain ?? extent(ys, includeZero), bottom, top, Math.max(4, Math.round(height / 50)));
  const low = xs.length === 0 ? 0 : Math.min(...xs);
  const high = Math.max(low + 1, ...xs);
  return { x: linearScale([low, high], LEFT, width - RIGHT, Math.round(width / 90)), y, options };
}

function layerValues(layer: Layer): (number | null)[] {
  if (layer.kind === "line") return layer.points.map((point) => point.y);
  if (layer.kind === "band") return layer.points.flatMap((point) => [point.low, point.high]);
  return [layer.y];
}

const number = (value: number) => Number(value.toFixed(2));

function grid({ x, y, options: { width, format, height } }: Frame): Html {
  const rows = y.ticks.map((tick) => {
    const at = number(y.at(tick));
    return html`<line class="grid" x1="${LEFT}" x2="${width - RIGHT}" y1="${at}" y2="${at}"/>
<text class="tick end" x="${LEFT - 8}" y="${at + 4}">${format(tick)}</text>`;
  });
  const columns = x.ticks
    .filter((tick) => Number.isInteger(tick))
    .map(
      (tick) => html`<text class="tick middle" x="${number(x.at(tick))}" y="${height - BOTTOM + 16}">${tick}</text>`,
    );
  return html`${rows}${columns}`;
}

function axes({ options: { width, height, xLabel, yLabel } }: Frame): Html {
  const base = height - BOTTOM;
  return html`<line class="axis" x1="${LEFT}" x2="${width - RIGHT}" y1="${base}" y2="${base}"/>
<text class="label end" x="${width - RIGHT}" y="${height - 6}">${xLabel}</text>
<text class="label" x="0" y="16.5">${yLabel}</text>`;
}

function drawLimit(limit: { readonly y: number; readonly label: string }, { y, options: { width } }: Frame): Html {
  const at = number(y.at(limit.y));
  return html`<line class="limit" x1="${LEFT}" x2="${width - RIGHT}" y1="${at}" y2="${at}"/>
<text class="label end" x="${width - RIGHT}" y="${at - 5}">${limit.label}</text>`;
}

function drawLayer(layer: Layer, frame: Frame): HtmlValue {
  switch (layer.kind) {
    case "band":
      return drawBand(layer, frame);
    case "line":
      return drawLine(layer, frame);
    case "mark": {
      const [x, y] = [number(frame.x.at(layer.x)), number(frame.y.at(layer.y))];
      const right = x > frame.options.width * 0.6;
      const tone = `mark ${layer.tone}`;
      return html`<line class="drop ${layer.tone}" x1="${x}" x2="${x}" y1="${y}" y2="${frame.options.height - BOTTOM}"/>
<circle class="${tone}" cx="${x}" cy="${y}" r="5"/>
<text class="label strong${right ? " end" : ""}" x="${right ? x - 10 : x + 10}" y="${number((y + frame.options.height - BOTTOM) / 2)}">${layer.label}</text>`;
    }
  }
}

function drawBand(layer: Extract<Layer, { kind: "band" }>, { x, y }: Frame): HtmlValue {
  if (layer.points.length < 2) return null;
  const upper = layer.points.map((point) => `${number(x.at(point.x))},${number(y.at(point.high))}`);
  const lower = layer.points.map((point) => `${number(x.at(point.x))},${number(y.at(point.low))}`).reverse();
  return html`<polygon class="band ${layer.tone}" points="${[...upper, ...lower].join(" ")}"/>`;
}

function drawLine(layer: Extract<Layer, { kind: "line" }>, { x, y, options }: Frame): HtmlValue {
  const points = thin(layer.points);
  let path = "";
  let pen = false;
  for (const point of points) {
    if (point.y === null || !Number.isFinite(point.y)) {
      pen = false;
      continue;
    }
    path += `${pen ? "L" : "M"}${number(x.at(point.x))} ${number(y.at(point.y))}`;
    pen = true;
  }
  const markers = layer.markers
    ? points
        .filter((point) => point.y !== null)
        .map(
          (point) =>
            html`<circle class="dot ${layer.tone}" cx="${number(x.at(point.x))}" cy="${number(
              y.at(point.y ?? 0),
            )}" r="3.5"><title>${layer.name}, step ${point.x}: ${options.format(point.y ?? 0)}</title></circle>`,
        )
    : null;
  return html`<path class="line ${layer.style ?? "plain"} ${layer.tone}" d="${path}"/>${markers}`;
}

/** Means of runs of neighbours. */
function thin(points: readonly Point[]): readonly Point[] {
  const size = Math.ceil(points.length / MAX_POINTS);
  if (size <= 1) return points;
  const thinned: Point[] = [];
  for (let i = 0; i < points.length; i += size) {
    const some = points.slice(i, i + size).filter((point) => point.y !== null);
    const first = points[i] as Point;
    const y = some.length === 0 ? null : some.reduce((sum, point) => sum + (point.y ?? 0), 0) / some.length;
    thinned.push({ x: first.x, y });
  }
  return thinned;
}

/** After the y axis' label; a single line needs none, nor do layers without a name. */
function legend({ layers, yLabel }: ChartOptions): HtmlValue {
  if (layers.length < 2) return null;
  let x = Math.max(LEFT, 24 + yLabel.length * CHARACTER);
  return layers.flatMap((layer) => {
    if (layer.kind === "mark" || layer.name === "") return [];
    const start = x;
    x += 42 + layer.name.length * CHARACTER;
    const swatch =
      layer.kind === "band"
        ? html`<rect class="band ${layer.tone}" x="${start}" y="8" width="18" height="9"/>`
        : html`<line class="line ${layer.style ?? "plain"} ${layer.tone}" x1="${start}" x2="${start + 18}" y1="12.5" y2="12.5"/>`;
    return [html`${swatch}<text class="label" x="${start + 23}" y="16.5">${layer.name}</text>`];
  });
}
