/** What is shown of what an agent did: one printable line of bounded length, whatever was in it. */

const MAX_EVIDENCE = 300;

/** Printable ASCII stays; everything else becomes a blank, runs of them one. */
export function evidence(...parts: readonly string[]): string {
  const text = parts.map((part) => part.slice(0, 4 * MAX_EVIDENCE)).join("");
  const printable = text.replace(/[^\x21-\x7e]+/g, " ").trim();
  return printable.length > MAX_EVIDENCE ? `${printable.slice(0, MAX_EVIDENCE - 3)}...` : printable;
}
