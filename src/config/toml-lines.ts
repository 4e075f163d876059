/**
 * Line numbers of keys in a TOML text, for error messages. The parser reports positions only for syntax errors, so this
 * scans the lines again; a key inside an inline table or a multi-line value is found under the key that holds it.
 */

const HEADER = /^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$/;
const ENTRY = /^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=\s*(.*)$/;

/** Maps dotted keys (array tables with their index, `sft.stages.0.steps`) to 1-based line numbers. */
export function findKeyLines(toml: string): Map<string, number> {
  const lines = new Map<string, number>();
  const arrayLengths = new Map<string, number>();
  let table = "";
  let terminator: string | undefined;
  for (const [index, line] of toml.split("\n").entries()) {
    if (terminator !== undefined) {
      if (line.includes(terminator)) terminator = undefined;
      continue;
    }
    const header = HEADER.exec(line);
    if (header !== null) {
      table = resolveArrays(splitKey(header[2] ?? ""), arrayLengths, header[1] === "[[");
      if (!lines.has(table)) lines.set(table, index + 1);
      continue;
    }
    const entry = ENTRY.exec(line);
    if (entry === null) continue;
    const key = splitKey(entry[1] ?? "").join(".");
    lines.set(table === "" ? key : `${table}.${key}`, index + 1);
    terminator = openedString(entry[2] ?? "");
  }
  return lines;
}

/** The line of `path`, or of the nearest key above it. */
export function lineOf(lines: ReadonlyMap<string, number>, path: readonly (string | number)[]): number | undefined {
  for (let length = path.length; length > 0; length--) {
    const line = lines.get(path.slice(0, length).join("."));
    if (line !== undefined) return line;
  }
  return undefined;
}

function splitKey(key: string): string[] {
  return [...key.matchAll(/"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)/g)].map(
    ([, double, single, bare]) => double ?? single ?? bare ?? "",
  );
}

function resolveArrays(segments: readonly string[], lengths: Map<string, number>, isArray: boolean): string {
  let path = "";
  for (const [index, segment] of segments.entries()) {
    path = path === "" ? segment : `${path}.${segment}`;
    if (isArray && index === segments.length - 1) {
      const length = (lengths.get(path) ?? 0) + 1;
      lengths.set(path, length);
      return `${path}.${length - 1}`;
    }
    const length = lengths.get(path);
    if (length !== undefined) path = `${path}.${length - 1}`;
  }
  return path;
}

/** The closing delimiter of a multi-line string that begins in `value` and does not end there. */
function openedString(value: string): string | undefined {
  for (const delimiter of ['"""', "'''"]) {
    if (value.startsWith(delimiter) && !value.slice(3).includes(delimiter)) return delimiter;
  }
  return undefined;
}
