/** Colours, used only for state and only where the stream is a terminal that wants them. */

const CODES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  blue: [34, 39],
  magenta: [35, 39],
  cyan: [36, 39],
} as const;

export type Style = keyof typeof CODES;

/** Wraps text in a style, or returns it as it is. */
export type Painter = (style: Style, text: string) => string;

export const plain: Painter = (_style, text) => text;

export const coloured: Painter = (style, text) => {
  const [open, close] = CODES[style];
  return text === "" ? "" : `\x1b[${open}m${text}\x1b[${close}m`;
};

/**
 * The painter for a stream: colours on a terminal, unless `NO_COLOR` is set (https://no-color.org) or `TERM` is `dumb`;
 * `FORCE_COLOR` turns them on elsewhere.
 */
export function painterFor(
  stream: { readonly isTTY?: boolean },
  env: Readonly<Record<string, string | undefined>> = process.env,
): Painter {
  if (env.NO_COLOR) return plain;
  if (env.FORCE_COLOR && env.FORCE_COLOR !== "0") return coloured;
  return stream.isTTY === true && env.TERM !== "dumb" ? coloured : plain;
}
