/** What was run in a sandbox, the newest entries of it. */

export interface LogEntry {
  /** Milliseconds since 1970, when it ended. */
  readonly at: number;
  /** Name of the shell, or `exec`, `command`, `terminal`. */
  readonly where: string;
  readonly command: string;
  readonly status: string;
  readonly exitCode: number | null;
  readonly ms: number;
  readonly outputBytes: number;
  /** The beginning of the output, as text. */
  readonly output: string;
}

const MAX_ENTRIES = 100;
const MAX_TEXT = 1000;

export class CommandLog {
  readonly #entries: LogEntry[] = [];

  add(entry: Omit<LogEntry, "output"> & { readonly output: Uint8Array }): void {
    const output = new TextDecoder().decode(entry.output.subarray(0, MAX_TEXT));
    this.#entries.push({ ...entry, command: entry.command.slice(0, MAX_TEXT), output });
    if (this.#entries.length > MAX_ENTRIES) this.#entries.shift();
  }

  /** The oldest first. */
  get entries(): readonly LogEntry[] {
    return this.#entries;
  }
}
