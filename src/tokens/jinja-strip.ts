/**
 * Python's `str.strip`, `lstrip` and `rstrip` for chat templates. The template library has methods of these names, but ignores
 * their argument, so that `content.lstrip('\n')` of Qwen3's template would eat spaces and tabs too. Calls of them are rewritten
 * in the parsed template to calls of the functions below.
 */

type Node = Record<string, unknown> & { readonly type: string };

/** Variables that a rewritten template needs. */
export const STRIP_FUNCTIONS: Readonly<Record<string, (text: unknown, characters?: unknown) => string>> = {
  python_strip: (text, characters) => strip(text, characters, true, true),
  python_lstrip: (text, characters) => strip(text, characters, true, false),
  python_rstrip: (text, characters) => strip(text, characters, false, true),
};

/** Rewrites `x.strip(y)` to `python_strip(x, y)`, and so on, everywhere below a node of a parsed template. */
export function rewriteStrips(node: unknown): void {
  if (Array.isArray(node)) {
    for (const item of node) rewriteStrips(item);
    return;
  }
  if (!isNode(node)) return;
  for (const child of Object.values(node)) rewriteStrips(child);
  const { callee, args } = node;
  if (node.type !== "CallExpression" || !isNode(callee) || callee.type !== "MemberExpression") return;
  const { property, object, computed } = callee;
  if (computed === true || !isNode(property) || !Array.isArray(args)) return;
  const name = `python_${String(property.value)}`;
  if (!(name in STRIP_FUNCTIONS)) return;
  node.callee = Object.assign(Object.create(Object.getPrototypeOf(property) as object), property, { value: name });
  node.args = [object, ...args];
}

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null && "type" in value;
}

/** Characters that Python counts as white space: `str.isspace`. */
const WHITE =
  "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000";

function strip(text: unknown, characters: unknown, left: boolean, right: boolean): string {
  if (typeof text !== "string") throw new Error("strip is a method of strings");
  const set = new Set(typeof characters === "string" ? characters : WHITE);
  const letters = [...text];
  let start = 0;
  let end = letters.length;
  while (left && start < end && set.has(letters[start] as string)) start++;
  while (right && end > start && set.has(letters[end - 1] as string)) end--;
  return letters.slice(start, end).join("");
}
