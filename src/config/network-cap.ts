/** The most that tasks and clients may ask of the network. */

import { z } from "zod";
import type { NetworkMode } from "../core/types.ts";

export const NETWORK_MODES = ["none", "allowlist", "public"] as const satisfies readonly NetworkMode[];

export interface NetworkCapSettings {
  readonly mostNetwork: NetworkMode;
  /** What a list may hold; omitted: anything. */
  readonly networkHosts?: readonly string[] | undefined;
}

export const networkCapFields = {
  mostNetwork: z
    .enum(NETWORK_MODES)
    .default("public")
    .describe("The most that a task may ask for; one that asks for more is refused"),
  networkHosts: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .describe(
      'With mostNetwork = "allowlist": what tasks may list, as example.org, *.example.org or 10.1.0.0/16, with :port',
    ),
};

/** What is wrong with it: the field, and the rest of a sentence that begins with it. */
export function networkCapProblem({
  mostNetwork,
  networkHosts,
}: NetworkCapSettings): readonly [field: string, message: string] | undefined {
  if (networkHosts === undefined || mostNetwork === "allowlist") return undefined;
  return ["networkHosts", `is what tasks may list, and needs mostNetwork "allowlist", not "${mostNetwork}"`];
}
