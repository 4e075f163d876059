/** The tasks that a command runs. */

import type { Experiment } from "../config/experiment.ts";
import type { NetworkCapSettings } from "../config/network-cap.ts";
import { aleHome } from "../config/paths.ts";
import { AleError } from "../core/errors.ts";
import { hasImage } from "../images/manifest.ts";
import { EXPERIMENT_CAP, NetworkCap } from "../sandbox/network/network-cap.ts";
import { listProfiles } from "../sandbox/profile-texts.ts";
import { mixSuites } from "../tasks/mixture.ts";
import { type LoadSuiteOptions, loadSuite, type Suite } from "../tasks/suite.ts";

function checkNetworks(suite: Suite, cap: NetworkCap): void {
  for (const { folder, networks } of suite.families.map((name) => suite.family(name)))
    for (const { table, network } of networks) {
      const asker = { who: `${folder}/task.toml`, mode: `${table}.network_mode`, hosts: `${table}.allowed_hosts` };
      cap.check(asker, network);
    }
}

/** Folders or names of the suites that the experiment takes its tasks from. */
export function suitePaths({ tasks }: Experiment): readonly string[] {
  return tasks.mix?.map(({ suite }) => suite) ?? [tasks.suite];
}

/** The tasks of the experiment: one suite, or several as one. @throws as `loadRunnableSuite`. */
export function loadTasks({ tasks, sandbox }: Experiment): Suite {
  const load = (path: string, families?: readonly string[]) =>
    loadRunnableSuite(path, families === undefined ? {} : { families }, sandbox);
  if (tasks.mix === undefined) return load(tasks.suite, tasks.families);
  return mixSuites(tasks.mix.map(({ suite, families, weight }) => ({ suite: load(suite, families), weight })));
}

/**
 * Loads a suite whose tasks are to be run here.
 * @throws AleError("task") as `loadSuite`, and when a task was made for a sandbox profile that there is not; AleError("usage")
 * when one asks for more of the network than `cap` allows.
 */
export function loadRunnableSuite(path: string, options: LoadSuiteOptions = {}, cap?: NetworkCapSettings): Suite {
  const suite = loadSuite(path, options);
  if (cap !== undefined) checkNetworks(suite, new NetworkCap(cap, EXPERIMENT_CAP));
  const known = listProfiles();
  for (const name of suite.families) {
    const { profile, image } = suite.family(name).environment;
    if (image !== undefined && hasImage(aleHome(), image)) continue;
    if (image !== undefined)
      throw new AleError("task", `${name} of ${path} is made for the image "${image}", which there is not`, {
        hint: `import it: ale images import FILE ${image}; images are neither pulled nor built here`,
      });
    if (known.includes(profile)) continue;
    throw new AleError("task", `${name} of ${path} is made for the sandbox profile "${profile}", which there is not`, {
      hint: `set environment.profile in its task.toml to one of: ${known.join(", ")}`,
    });
  }
  return suite;
}
