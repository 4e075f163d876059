/**
 * Numbers on their way through a chat template. Templates write tools and tool calls with `tojson`, which must give what
 * Python's `json.dumps` gives: `1.0` stays `1.0`, `1e-7` becomes `1e-07`, and long integers keep their digits. A JavaScript
 * number cannot tell `1.0` from `1`, so where the two languages would write a number differently it travels as a marked
 * string and is put back into the rendered text.
 */

/** A character for private use; no text has a number between two of them. */
const MARK = "\ue000";
const MARKED = /"\ue000([-+.\de]+)\ue000"|\ue000([-+.\de]+)\ue000/g;

/** Parses JSON that a chat template will render. Throws `SyntaxError` as `JSON.parse`. */
export function parseTemplateJson(text: string): unknown {
  return JSON.parse(text, (_key, value: unknown, { source }: { source?: string } = {}) => {
    if (typeof value !== "number" || source === undefined) return value;
    const written = pythonNumber(source);
    return written === JSON.stringify(value) ? value : `${MARK}${written}${MARK}`;
  });
}

/** Puts the numbers of `parseTemplateJson` into rendered text. */
export function restoreNumbers(rendered: string): string {
  return rendered.includes(MARK) ? rendered.replace(MARKED, (_, json, plain) => json ?? plain) : rendered;
}

/** A JSON number as Python writes it after reading it: integers digit by digit, others as the shortest `repr`. */
function pythonNumber(source: string): string {
  if (/^-?\d+$/.test(source)) return source === "-0" ? "0" : source;
  const value = Number(source);
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [digits, power] = value.toExponential().split("e") as [string, string];
  const exponent = Number(power);
  // Python turns to exponents below 1e-4 and from 1e16 on, with at least two digits.
  if (exponent < -4 || exponent >= 16) {
    return `${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const plain = exponent < 0 ? value.toFixed(Math.max(0, fraction(digits) - exponent)) : String(value);
  return plain.includes(".") ? plain : `${plain}.0`;
}

/** Digits behind the point. */
function fraction(digits: string): number {
  return digits.split(".")[1]?.length ?? 0;
}
