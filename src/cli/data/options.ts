/** What the commands of `ale data` share. */

import type { Experiment } from "../../config/experiment.ts";
import { loadExperiment } from "../../config/load.ts";
import { longEpisodeSettings } from "../../experiment/language-model.ts";
import { sanitizeLine } from "../../tui/sanitize.ts";
import type { ViewMode } from "../../tui/view.ts";
import type { CommandLine } from "../command-line.ts";
import { viewModeFor } from "../watch.ts";

/** Limits of episodes and `[remote]`: those of `file`, or limits for long episodes with this policy. */
export function experimentFor(policy: string, file: string | undefined): Experiment {
  const layers = file === undefined ? { files: [], overrides: longEpisodeSettings(policy) } : { files: [file] };
  return loadExperiment(layers).experiment;
}

/** Progress goes to a person, not to a program that reads JSON. */
export function progressMode(cli: CommandLine, json: boolean | undefined): ViewMode {
  return json && cli.stderr.isTTY !== true ? "quiet" : viewModeFor(cli, cli.stderr);
}

interface Told {
  readonly kind: string;
  readonly name: string;
  readonly member?: number | undefined;
  readonly stage: string;
  readonly reason: string;
}

const SHOWN = 20;

/** The first rejections, one a line. */
export function printRejections(cli: CommandLine, rejected: readonly Told[]): void {
  for (const { kind, name, member, stage, reason } of rejected.slice(0, SHOWN)) {
    const which = member === undefined ? name : `${name} ${member}`;
    cli.print(cli.paint("dim", `rejected ${kind} ${sanitizeLine(which, 60)} (${stage}): ${sanitizeLine(reason, 200)}`));
  }
  if (rejected.length > SHOWN) cli.print(cli.paint("dim", `… and ${rejected.length - SHOWN} more in rejected.jsonl`));
}
