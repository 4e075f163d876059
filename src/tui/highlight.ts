import { sanitizeText } from "./sanitize.ts";
import type { Painter } from "./style.ts";

/** TOML as `ale` writes it, with comments dimmed and table names bold. */
export function highlightToml(toml: string, paint: Painter): string {
  return sanitizeText(toml)
    .split("\n")
    .map((line) => {
      if (line.startsWith("#")) return paint("dim", line);
      if (line.startsWith("[")) return paint("bold", line);
      const comment = line.lastIndexOf("  # ");
      return comment < 0 ? line : line.slice(0, comment) + paint("dim", line.slice(comment));
    })
    .join("\n");
}
