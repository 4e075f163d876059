/** The file of results: one JSON line per finished run, appended when the run has ended, so that a driver can be stopped any time. */

import { appendFileSync, existsSync, readFileSync } from "node:fs";
import type { Outcome } from "./outcome.ts";

export interface Result extends Outcome {
  /** Hash of the resolved experiment, seed included: other settings are another run. */
  readonly configHash: string;
  readonly arm: string;
  readonly seed: number;
}

export class Results {
  readonly #path: string;
  readonly #byHash = new Map<string, Result>();

  /** Reads what is there; a last line that a killed driver left unfinished is dropped. */
  constructor(path: string) {
    this.#path = path;
    const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
    const torn = lines.pop() ?? "";
    for (const line of lines) {
      const result = parse(line);
      if (result !== undefined) this.#byHash.set(result.configHash, result);
    }
    // what follows must begin on a line of its own
    if (torn !== "") appendFileSync(path, "\n");
  }

  get(configHash: string): Result | undefined {
    return this.#byHash.get(configHash);
  }

  add(result: Result): void {
    appendFileSync(this.#path, `${JSON.stringify(result)}\n`);
    this.#byHash.set(result.configHash, result);
  }
}

function parse(line: string): Result | undefined {
  try {
    return JSON.parse(line) as Result;
  } catch {
    return undefined; // what a killed driver left of a line
  }
}
