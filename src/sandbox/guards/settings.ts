/** `[guards]` of a sandbox profile: what is looked for, from when on it counts, and what is done then. */

import { isAbsolute } from "node:path";
import { z } from "zod";

const action = (otherwise: "alert" | "stop") => z.enum(["off", "alert", "stop"]).default(otherwise);
const share = z.number().min(0.01).max(1);
const seconds = z.number().min(0.1).max(86_400);
const whole = z.number().int().min(1);

export const GuardsSchema = z.strictObject({
  /** Seconds between two looks at the processes of a sandbox in use. */
  pollSeconds: seconds.default(5),
  tunnel: z.strictObject({ action: action("stop") }).prefault({}),
  scan: z
    .strictObject({
      action: action("stop"),
      /** Different hosts, or ports of one host, that are tried within the window. */
      destinations: whole.default(16),
      windowSeconds: seconds.default(10),
    })
    .prefault({}),
  mining: z
    .strictObject({
      action: action("stop"),
      /** Of the processors the sandbox may use, taken by one process over the whole window. */
      share: share.default(0.9),
      windowSeconds: seconds.default(300),
      /** A process that waits, reads or writes more often works with something. */
      switchesPerSecond: z.number().min(0).default(50),
      /** Bytes per second written by it. */
      writtenPerSecond: z.number().min(0).default(1024),
    })
    .prefault({}),
  protectedWrite: z
    .strictObject({
      action: action("alert"),
      /** Where tests, rewards and solutions are during grading, and nothing of the agent's has to be. */
      paths: z
        .array(z.string().refine(isAbsolute, "must be an absolute path"))
        .default(["/tests", "/logs/verifier", "/solution", "/oracle"]),
      /**
       * Names in the working directory, which grading carries along, that stand in for what a verifier started there runs:
       * `python3 -m pytest` takes `pytest.py` of its folder before the real one.
       */
      shadows: z
        .array(z.string().min(1))
        .default(["pytest.py", "pytest", "_pytest", "unittest", "unittest.py", "sitecustomize.py", "usercustomize.py"]),
    })
    .prefault({}),
  forkStorm: z
    .strictObject({
      action: action("alert"),
      /** Of the processes the sandbox may have, at two looks one after the other. */
      share: share.default(0.9),
    })
    .prefault({}),
  outputFlood: z
    .strictObject({
      action: action("alert"),
      /** Commands that were ended for the amount of their output. */
      hits: whole.default(2),
      /** Output of all commands together. */
      bytes: whole.default(256 << 20),
    })
    .prefault({}),
});

export type GuardSettings = z.infer<typeof GuardsSchema>;

/** Those of a profile without a table of its own. */
export const DEFAULT_GUARDS: GuardSettings = GuardsSchema.parse({});
