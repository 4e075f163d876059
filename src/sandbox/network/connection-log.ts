/** What a sandbox's connections were and how much went through them; the budget of those through the proxy. */

import type { NetworkUsage } from "../../core/ports.ts";
import type { ConnectionRecord, NetworkLimits } from "../../core/types.ts";

/** Of each kind, so that a flood of one does not hide the others. */
const MAX_ENTRIES = 1000;
/** What a sandbox calls things is kept this long. */
const MAX_TEXT = 300;

type Kind = ConnectionRecord["kind"];

/** A connection while it is open. */
export interface OpenConnection {
  readonly kind: Kind;
  bytesOut: number;
  bytesIn: number;
  address: string | null;
  host: string;
  port: number;
  /** Why it may not go on, once that is so. */
  exceeds(): string | undefined;
  end(verdict: ConnectionRecord["verdict"], reason?: string): void;
}

interface Totals {
  bytesOut: number;
  bytesIn: number;
  connections: number;
}
const newTotals = (): Totals => ({ bytesOut: 0, bytesIn: 0, connections: 0 });

export class ConnectionLog {
  readonly #entries: ConnectionRecord[] = [];
  readonly #open = new Set<OpenConnection>();
  readonly #listeners: ((record: ConnectionRecord) => void)[] = [];
  readonly #ended: Record<Kind, Totals> = {
    proxy: newTotals(),
    dns: newTotals(),
    endpoint: newTotals(),
    inbound: newTotals(),
  };
  #denied = 0;
  limits: NetworkLimits;

  constructor(limits: NetworkLimits) {
    this.limits = limits;
  }

  get entries(): readonly ConnectionRecord[] {
    return this.#entries;
  }

  get usage(): NetworkUsage {
    const all = { ...newTotals(), denied: this.#denied };
    for (const kind of ["proxy", "endpoint", "inbound"] as const) {
      const { bytesOut, bytesIn, connections } = this.#totals(kind);
      all.bytesOut += bytesOut;
      all.bytesIn += bytesIn;
      all.connections += connections;
    }
    return all;
  }

  /** Of connections that have ended and that are open. */
  #totals(kind: Kind): Totals {
    const totals = { ...this.#ended[kind] };
    for (const one of this.#open) {
      if (one.kind !== kind) continue;
      totals.bytesOut += one.bytesOut;
      totals.bytesIn += one.bytesIn;
      totals.connections++;
    }
    return totals;
  }

  onConnection(listener: (record: ConnectionRecord) => void): void {
    this.#listeners.push(listener);
  }

  /** Why the connection just begun is one too many; `undefined`: it is not. */
  refusesMore(kind: Kind): string | undefined {
    const open = [...this.#open].filter((one) => one.kind === kind).length;
    if (open > this.limits.connections) return `more than ${this.limits.connections} connections at once`;
    if (kind === "proxy" && this.#totals(kind).connections > this.limits.totalConnections)
      return `more than ${this.limits.totalConnections} connections in all`;
    return undefined;
  }

  begin(kind: Kind, host = "", port = 0): OpenConnection {
    const [at, began] = [Date.now(), performance.now()];
    let over = false;
    const connection: OpenConnection = {
      ...{ kind, bytesOut: 0, bytesIn: 0, address: null, host, port },
      exceeds: () => {
        if (kind !== "proxy") return undefined;
        const { bytesOut, bytesIn } = this.#totals(kind);
        if (bytesOut > this.limits.bytesOut) return `more than ${this.limits.bytesOut} bytes left the sandbox`;
        return bytesIn > this.limits.bytesIn ? `more than ${this.limits.bytesIn} bytes came to the sandbox` : undefined;
      },
      end: (verdict, reason = "") => {
        if (over) return;
        over = true;
        const { bytesOut, bytesIn, address } = connection;
        const ms = performance.now() - began;
        const host = connection.host.slice(0, MAX_TEXT);
        this.#open.delete(connection);
        this.#add({ kind, at, ms, host, port: connection.port, address, verdict, reason, bytesOut, bytesIn });
      },
    };
    this.#open.add(connection);
    return connection;
  }

  #add(record: ConnectionRecord): void {
    const totals = this.#ended[record.kind];
    totals.bytesOut += record.bytesOut;
    totals.bytesIn += record.bytesIn;
    totals.connections++;
    if (record.verdict === "denied") this.#denied++;
    keepNewest(this.#entries, record);
    for (const listener of this.#listeners) listener(record);
  }
}

/** Adds `record`; the oldest of its kind goes when there are too many. */
export function keepNewest(entries: ConnectionRecord[], record: ConnectionRecord): void {
  entries.push(record);
  if (entries.length <= MAX_ENTRIES) return;
  const ofKind = entries.filter(({ kind }) => kind === record.kind).length;
  if (ofKind > MAX_ENTRIES)
    entries.splice(
      entries.findIndex(({ kind }) => kind === record.kind),
      1,
    );
}
