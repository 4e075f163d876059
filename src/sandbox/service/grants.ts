/** Room of a sandbox through its states. */

import type { EnvironmentSpec } from "../../core/types.ts";
import { type Grant, NO_RESOURCES, type Resources } from "./admission.ts";

/** What a sandbox takes up while it runs. */
export function needOf({ memoryBytes, cpus, diskBytes }: EnvironmentSpec): Resources {
  return { memoryBytes, cpus, diskBytes, count: 1 };
}

/** What was held back while it was stopped, and what came with the restart, as one. */
export function joined(held: Grant | undefined, rest: Grant): Grant {
  if (held === undefined) return rest;
  const need = { ...rest.need, diskBytes: held.need.diskBytes };
  return {
    need,
    release: (kept = NO_RESOURCES) => {
      held.release({ ...NO_RESOURCES, diskBytes: kept.diskBytes });
      rest.release({ ...kept, diskBytes: 0 });
    },
  };
}
