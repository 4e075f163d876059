/** What a task says about the network, phase by phase (Harbor's `network_mode`, `allowed_hosts` and, older, `allow_internet`). */

import { AleError } from "../core/errors.ts";
import type { NetworkMode, NetworkSpec } from "../core/types.ts";

export const NO_NETWORK: NetworkSpec = { mode: "none", allow: [] };

const MODES: Readonly<Record<string, NetworkMode>> = {
  "no-network": "none",
  allowlist: "allowlist",
  public: "public",
};

interface NetworkTable {
  readonly network_mode?: string | undefined;
  readonly allowed_hosts: readonly string[];
  readonly allow_internet?: boolean | undefined;
}

/**
 * The network of one table; `otherwise` where it says nothing. A task that says nothing at all has none, where Harbor's has
 * everything.
 * @throws AleError("task") when what it says is not clear
 */
export function networkOf(name: string, table: string, said: NetworkTable, otherwise: NetworkSpec): NetworkSpec {
  const { network_mode: given, allowed_hosts: allow, allow_internet: internet } = said;
  const refuse = (message: string, hint: string) => {
    throw new AleError("task", `${name}: ${table}.${message}`, { hint });
  };
  const older = internet === undefined ? undefined : internet ? "public" : "no-network";
  if (given !== undefined && older !== undefined && given !== older)
    refuse(`allow_internet = ${internet} and network_mode = "${given}" disagree`, "keep network_mode only");
  const mode = MODES[given ?? older ?? ""];
  if (mode === undefined && allow.length > 0)
    refuse("allowed_hosts needs a network_mode", 'add network_mode = "allowlist"');
  if (mode === undefined) return otherwise;
  if (mode === "none" && allow.length > 0)
    refuse("allowed_hosts lists hosts, but there is no network", 'set network_mode = "allowlist"');
  if (mode === "allowlist" && allow.length === 0)
    refuse(
      'network_mode is "allowlist", but allowed_hosts lists none',
      'list hosts, or set network_mode = "no-network"',
    );
  return { mode, allow };
}

/** The other way round. */
export function networkTable(network: NetworkSpec = NO_NETWORK): Record<string, string | string[]> {
  const [name = ""] = Object.entries(MODES).find(([, mode]) => mode === network.mode) ?? [];
  if (network.mode === "none") return {};
  return { network_mode: name, ...(network.allow.length > 0 && { allowed_hosts: [...network.allow] }) };
}
