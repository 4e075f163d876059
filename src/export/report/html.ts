/**
 * HTML from templates in which every value is text unless it was made by a template itself. What agents wrote is hostile
 * (DESIGN D12): it can only ever become characters on the page.
 */

/** Markup that a template made; nothing else is ever taken for markup. */
export class Html {
  readonly #markup: string;

  /** Only templates of this file and constants of the program may be wrapped. */
  constructor(markup: string) {
    this.#markup = markup;
  }

  toString(): string {
    return this.#markup;
  }
}

export type HtmlValue = string | number | null | undefined | false | Html | readonly HtmlValue[];

/** A template literal whose values are escaped; lists are joined, `null`, `undefined` and `false` vanish. */
export function html(strings: TemplateStringsArray, ...values: readonly HtmlValue[]): Html {
  let markup = strings[0] ?? "";
  for (const [i, value] of values.entries()) markup += render(value) + (strings[i + 1] ?? "");
  return new Html(markup);
}

function render(value: HtmlValue): string {
  if (value === null || value === undefined || value === false) return "";
  if (value instanceof Html) return value.toString();
  if (typeof value === "string" || typeof value === "number") return escapeHtml(String(value));
  return value.map(render).join("");
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
  "`": "&#96;",
};

/** Control characters but tab and newline, and the marks that reorder text so that it reads as something else. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to find
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Characters for an element's text or a quoted attribute; invisible ones are shown as `\u{1b}`. */
export function escapeHtml(text: string): string {
  return text
    .toWellFormed()
    .replace(INVISIBLE, (character) => `\\u{${character.charCodeAt(0).toString(16)}}`)
    .replace(/[&<>"'`]/g, (character) => ENTITIES[character] ?? "");
}
