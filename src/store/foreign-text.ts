/**
 * Text that may hold anything, such as what an agent wrote. The driver cuts text at the first NUL when it reads it, so text
 * with a NUL is stored as UTF-8 bytes; all other text stays readable for any SQL tool.
 */

import { customType } from "drizzle-orm/sqlite-core";

const decoder = new TextDecoder();

/** The value to store for a text. */
export function toStoredText(text: string): string | Buffer {
  return text.includes("\0") ? Buffer.from(text) : text;
}

export const foreignText = customType<{ data: string; driverData: string | Buffer }>({
  dataType: () => "text",
  toDriver: toStoredText,
  fromDriver: (stored) => (typeof stored === "string" ? stored : decoder.decode(stored)),
});
