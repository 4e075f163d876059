/** GGUF metadata by key, with the types that are expected. */

import { AleError } from "../core/errors.ts";
import type { GgufFile, GgufValue } from "./gguf.ts";

export class GgufMetadata {
  readonly path: string;
  readonly #values: ReadonlyMap<string, GgufValue>;

  constructor({ source, metadata }: GgufFile) {
    this.path = source.path;
    this.#values = metadata;
  }

  /** @throws AleError("model") naming the key when it is there and not a number. */
  number(key: string): number | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    if (typeof value !== "number" && typeof value !== "bigint") throw this.wrong(key, "a number");
    return Number(value);
  }

  /** As `number`. @throws AleError("model") also when it is missing. */
  requiredNumber(key: string): number {
    const value = this.number(key);
    if (value === undefined) throw this.wrong(key, "a number");
    return value;
  }

  string(key: string): string | undefined {
    const value = this.#values.get(key);
    if (value !== undefined && typeof value !== "string") throw this.wrong(key, "a string");
    return value;
  }

  flag(key: string): boolean | undefined {
    const value = this.#values.get(key);
    if (value !== undefined && typeof value !== "boolean") throw this.wrong(key, "true or false");
    return value;
  }

  strings(key: string): readonly string[] | undefined {
    return this.#list(key, (item): item is string => typeof item === "string", "a list of strings");
  }

  numbers(key: string): readonly number[] | undefined {
    return this.#list(key, (item): item is number => typeof item === "number", "a list of numbers");
  }

  wrong(key: string, expected: string): AleError {
    const value = this.#values.get(key);
    const state = value === undefined ? "is missing" : `is ${Array.isArray(value) ? "a list" : String(value)}`;
    return new AleError("model", `${this.path}: ${key} ${state}; expected ${expected}`, {
      hint: "use a file that llama.cpp's converter wrote from a llama, qwen2, qwen3 or qwen3moe model",
    });
  }

  #list<T extends GgufValue>(
    key: string,
    fits: (item: GgufValue) => item is T,
    expected: string,
  ): readonly T[] | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || !value.every(fits)) throw this.wrong(key, expected);
    return value;
  }
}
