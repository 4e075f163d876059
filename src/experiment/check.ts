/** `ale tasks check`: oracle and no-op of a suite's instances, in real sandboxes. */

import { cpus } from "node:os";
import { grade } from "../sandbox/grading.ts";
import { type CheckRow, checkSuite } from "../tasks/check.ts";
import type { CheckTasks } from "./api.ts";
import { environmentsOf } from "./evaluation.ts";
import { warmUp } from "./resources.ts";
import { openSandboxes } from "./sandboxes.ts";
import { loadRunnableSuite } from "./suites.ts";

/** Instances in flight per core: most of an instance's time is waiting for processes. */
const PER_CORE = 4;

/** Yields a row per instance, as they finish. */
export const checkTasks: CheckTasks = async function* (options) {
  const { samples, families, hub, signal } = options;
  const suite = loadRunnableSuite(options.suite, families === undefined ? {} : { families });
  await using provider = await openSandboxes(options.suite);
  const concurrency = cpus().length * PER_CORE;
  warmUp(provider, environmentsOf(suite.families.map((family) => suite.render(family, "train", 0))), concurrency);
  const rows: CheckRow[] = [];
  let done = 0;
  let wake = () => {};
  const work = checkSuite(suite, provider, grade, { samples, concurrency, signal }, (row) => {
    rows.push(row);
    hub.emit({ type: "progress", stage: "checking tasks", done: ++done, total: samples, unit: "instances" });
    wake();
  });
  let ended = false;
  const end = work.finally(() => {
    ended = true;
    wake();
  });
  // its failure is reported by the await below, not by the runtime
  end.catch(() => {});
  while (!ended || rows.length > 0) {
    const row = rows.shift();
    if (row !== undefined) yield row;
    else if (!ended)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
  }
  await end;
};
