/** What every command gets: where to print, whether to colour, and the dotted overrides. */

import { Option } from "commander";
import { AleError } from "../core/errors.ts";
import { QUANTIZATIONS } from "../core/quantization.ts";
import { type Painter, painterFor } from "../tui/style.ts";

/** The part of a stream that commands use. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
  on?(event: "error", listener: (error: Error & { readonly code?: string }) => void): unknown;
}

export class CommandLine {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Dotted experiment settings found among the arguments, as `key=text`. */
  readonly overrides: readonly string[];
  /** What the process ends with when the command does not throw. */
  exitCode = 0;

  constructor(options: {
    readonly stdout: Output;
    readonly stderr: Output;
    readonly env?: Readonly<Record<string, string | undefined>>;
    readonly overrides?: readonly string[];
  }) {
    this.stdout = options.stdout;
    this.stderr = options.stderr;
    this.env = options.env ?? process.env;
    this.overrides = options.overrides ?? [];
  }

  /** Colours for stdout. */
  get paint(): Painter {
    return painterFor(this.stdout, this.env);
  }

  /**
   * Goes on without output when a reader such as `head` ends early, the terminal is closed or the disk is full; a run is
   * worth saving all the same. Without a listener, the first failed write would end the process. What was lost is said at
   * the end, by `start.ts`.
   */
  tolerateFailedWrites(): void {
    for (const stream of [this.stdout, this.stderr]) stream.on?.("error", () => {});
  }

  /** A line of the result. */
  print(line: string): void {
    this.stdout.write(`${line}\n`);
  }

  /** A line beside the result: progress, advice. */
  note(line: string): void {
    this.stderr.write(`${line}\n`);
  }

  printJson(value: unknown): void {
    this.stdout.write(`${JSON.stringify(value)}\n`);
  }
}

/** The `Examples:` block of a help text. */
export function examples(...lines: readonly (readonly [command: string, meaning: string])[]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  const long = width > 58;
  const body = lines.map(([command, meaning]) =>
    long ? `  ${command}\n      ${meaning}` : `  ${command.padEnd(width)}  ${meaning}`,
  );
  return `\nExamples:\n${body.join("\n")}`;
}

/**
 * A reader of whole numbers for commander options.
 * @throws AleError("usage") naming option, text and bounds.
 */
export function wholeNumber(option: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new AleError("usage", `${option} is ${JSON.stringify(text)}; expected a whole number from ${min} to ${max}`, {
      hint: `write ${option} ${min}`,
    });
  };
}

/** As `wholeNumber`, for real numbers. */
export function realNumber(option: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new AleError("usage", `${option} is ${JSON.stringify(text)}; expected a number from ${min} to ${max}`, {
      hint: `write ${option} ${max < 1 ? max : Math.max(min, 1)}`,
    });
  };
}

/** `--quantization`, for commands that train nothing. */
export function quantizationOption(): Option {
  return new Option("--quantization <form>", "round the weights to 8 or 4 bits: faster, smaller, less exact").choices(
    QUANTIZATIONS,
  );
}

/** A reader of comma-separated names. */
export function nameList(text: string): string[] {
  return text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
}
