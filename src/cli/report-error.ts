/** How a failure looks: what happened and the next step, on stderr, with nothing in it that could act on a terminal. */

import type { CommanderError } from "commander";
import { AleError, errorMessage } from "../core/errors.ts";
import { sanitizeText } from "../tui/sanitize.ts";
import { painterFor } from "../tui/style.ts";
import type { CommandLine } from "./command-line.ts";

const MAX_MESSAGE = 8000;

/**
 * Prints the error; with `json` also as `{"error": …}` on stdout, but for an interrupt, whose run has printed its result.
 * Returns the exit code.
 */
export function reportError(error: unknown, cli: CommandLine, json: boolean): number {
  const known = error instanceof AleError ? error : wrapUnknown(error);
  const paint = painterFor(cli.stderr, cli.env);
  const message = sanitizeText(known.message).slice(0, MAX_MESSAGE);
  const hint = known.hint === undefined ? undefined : sanitizeText(known.hint).slice(0, MAX_MESSAGE);
  if (json && known.code !== "interrupted")
    cli.printJson({ error: { code: known.code, message, ...(hint === undefined ? {} : { hint }) } });
  const label = known.code === "interrupted" ? paint("yellow", "stopped:") : paint("red", "error:");
  cli.stderr.write(`${label} ${message}\n`);
  if (hint !== undefined) cli.stderr.write(`  ${paint("bold", "next:")} ${hint}\n`);
  if (known.code === "internal" && cli.env.ALE_DEBUG && error instanceof Error) {
    cli.stderr.write(`${sanitizeText(error.stack ?? "")}\n`);
  }
  return known.exitCode;
}

/** An error of commander's parser, in the form of ours. */
export function usageError(error: CommanderError, command: string): AleError {
  const message = error.message.replace(/^error: /, "").replace(/\n\(?(Did you mean .*?)\)?$/, "; $1");
  return new AleError("usage", message.replace("; Did", "; did"), { hint: `${command} --help` });
}

function wrapUnknown(error: unknown): AleError {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new AleError("storage_full", `no space left: ${errorMessage(error)}`, {
      hint: "free some space (df -h), then continue with ale resume",
      cause: error,
    });
  }
  return new AleError("internal", errorMessage(error), {
    hint: "this is a fault of Ale; run the command again with ALE_DEBUG=1 and report what it prints",
    cause: error,
  });
}
