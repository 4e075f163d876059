/** Connections of a sandbox across stops and restarts, each of which begins a new network. */

import type { NetworkUsage, SandboxNetwork } from "../../core/ports.ts";
import type { ConnectionRecord } from "../../core/types.ts";
import { keepNewest } from "../network/connection-log.ts";

const NOTHING: NetworkUsage = { bytesOut: 0, bytesIn: 0, connections: 0, denied: 0 };

export class ConnectionHistory {
  readonly #entries: ConnectionRecord[] = [];
  readonly #networks: SandboxNetwork[] = [];

  /** Also listens to `network` from now on. */
  follow(network: SandboxNetwork | undefined): void {
    if (network === undefined || this.#networks.includes(network)) return;
    this.#networks.push(network);
    for (const record of network.connections) this.#add(record);
    network.onConnection((record) => this.#add(record));
  }

  #add(record: ConnectionRecord): void {
    keepNewest(this.#entries, record);
  }

  get entries(): readonly ConnectionRecord[] {
    return this.#entries;
  }

  get usage(): NetworkUsage {
    return this.#networks.reduce((sum, { usage }) => plus(sum, usage), NOTHING);
  }
}

function plus(a: NetworkUsage, b: NetworkUsage): NetworkUsage {
  return {
    bytesOut: a.bytesOut + b.bytesOut,
    bytesIn: a.bytesIn + b.bytesIn,
    connections: a.connections + b.connections,
    denied: a.denied + b.denied,
  };
}
