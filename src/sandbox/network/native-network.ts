/** The network of one native sandbox: which ports of its empty namespace lead somewhere, and where. */

import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { AleError } from "../../core/errors.ts";
import type { EndpointTarget, NetworkUsage, SandboxNetwork } from "../../core/ports.ts";
import type { ConnectionRecord, NetworkSpec, SandboxFile } from "../../core/types.ts";
import { concat, encodeSettings, Op, type OpCode } from "../protocol.ts";
import { ConnectionLog, type OpenConnection } from "./connection-log.ts";
import { EgressProxy, PROXY_TIMES, type ProxyTimes } from "./egress-proxy.ts";
import { Endpoint } from "./endpoint.ts";
import { Lookups } from "./lookups.ts";
import { NAME_PORT, NameServer } from "./name-server.ts";
import { NetworkPolicy } from "./policy.ts";
import { StandIns } from "./stand-ins.ts";
import { type Resolve, systemResolve, Unreachable } from "./upstream.ts";

/** Where the proxy is found inside a sandbox. */
export const PROXY_PORT = 3128;
const PROXY_URL = `http://127.0.0.1:${PROXY_PORT}`;
const REQUEST_MS = 10_000;
const LOOPBACK = "127.0.0.1";
const ENCODER = new TextEncoder();
const RESOLVER: SandboxFile = { path: "resolv.conf", mode: 0o644, content: ENCODER.encode(`nameserver ${LOOPBACK}\n`) };

/** Of all sandboxes of a provider. */
export interface NetworkOptions {
  /** Looks names up; the system's resolver when omitted. */
  readonly resolve?: Resolve;
  readonly times?: Partial<ProxyTimes>;
}

/** What the network needs of its sandbox. */
export interface NetworkHost {
  readonly id: string;
  /** Folder for sockets, and what the launcher calls it; `undefined` where no connection can be had. */
  readonly socketFolder: string | undefined;
  readonly launcherFolder: string;
  readonly alive: boolean;
  request(op: OpCode, payload: Uint8Array, what: string, timeoutMs: number): Promise<unknown>;
  /** Places files in a folder of the sandbox. */
  upload(folder: string, files: readonly SandboxFile[]): Promise<void>;
}

/** A port of the sandbox's loopback device. */
interface Place {
  readonly address: string;
  readonly port: number;
  readonly datagrams: boolean;
}

/** One that is listened on, and this side of it. */
interface Gate extends Place {
  readonly name: string;
  readonly server: Server;
  readonly sockets: Set<Socket>;
}

/** What listens inside as long as there is a network: the proxy, and the resolver in both ways it may be asked. */
const WAYS_OUT: readonly Place[] = [
  { address: LOOPBACK, port: PROXY_PORT, datagrams: false },
  { address: LOOPBACK, port: NAME_PORT, datagrams: false },
  { address: LOOPBACK, port: NAME_PORT, datagrams: true },
];

let nextName = 1;

export class NativeNetwork implements SandboxNetwork {
  readonly #host: NetworkHost;
  readonly #log: ConnectionLog;
  readonly #proxy: EgressProxy;
  readonly #names: NameServer;
  readonly #standIns: StandIns;
  readonly #gates = new Map<string, Gate>();
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #forwards = new Map<number, Promise<string>>();
  #spec: NetworkSpec = { mode: "none", allow: [] };
  #closed = false;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(host: NetworkHost, options: NetworkOptions = {}) {
    this.#host = host;
    const policy = new NetworkPolicy(this.#spec);
    this.#log = new ConnectionLog(policy.limits);
    const times = { ...PROXY_TIMES, ...options.times };
    const common = { policy, log: this.#log, lookups: new Lookups(options.resolve ?? systemResolve) };
    this.#proxy = new EgressProxy({ ...common, times });
    this.#names = new NameServer({ ...common, standIn: (name, ports) => this.#standIn(name, ports) });
    this.#standIns = new StandIns(
      {
        open: (address, port, name) =>
          this.#open({ address, port, datagrams: false }, (client) => this.#proxy.serveNamed(client, name, port)),
        close: (address, port) => this.#close({ address, port, datagrams: false }),
        isBusy: (address, port) => (this.#gates.get(keyOf({ address, port, datagrams: false }))?.sockets.size ?? 0) > 0,
      },
      (work) => this.#exclusively(work),
    );
  }

  get #folder(): string {
    const { id, socketFolder } = this.#host;
    if (socketFolder !== undefined) return socketFolder;
    throw new AleError("sandbox", `sandbox ${id} can have no connections: its backend offers none`, {
      hint: "use the backend native, or leave the network at none",
    });
  }

  get spec(): NetworkSpec {
    return this.#spec;
  }

  get connections(): readonly ConnectionRecord[] {
    return this.#log.entries;
  }

  get usage(): NetworkUsage {
    return this.#log.usage;
  }

  onConnection(listener: (record: ConnectionRecord) => void): void {
    this.#log.onConnection(listener);
  }

  async change(spec: NetworkSpec): Promise<void> {
    const policy = new NetworkPolicy(spec);
    if (spec.mode !== "none") void this.#folder; // throws where there can be none
    // At once, whatever the sandbox says to what follows.
    this.#spec = spec;
    this.#proxy.policy = policy;
    this.#names.policy = policy;
    this.#log.limits = policy.limits;
    this.#proxy.endAll("the network of the sandbox changed");
    await this.#exclusively(async () => {
      if (this.#spec !== spec) return; // changed again meanwhile
      await this.#standIns.clear();
      const ways = spec.mode === "none" ? WAYS_OUT.map((way) => this.#close(way)) : this.#openWaysOut();
      await Promise.all([...ways, this.#tellPrograms()]);
    });
  }

  #openWaysOut(): Promise<void>[] {
    const missing = WAYS_OUT.filter((way) => !this.#gates.has(keyOf(way)));
    // Where an agent put something else there, names are its own affair.
    const resolver = this.#host.upload("/etc", [RESOLVER]).catch(() => {});
    return [resolver, ...missing.map((way) => this.#open(way, this.#serverOf(way)))];
  }

  #serverOf({ port, datagrams }: Place): (client: Socket) => Promise<void> {
    if (port === PROXY_PORT) return (client) => this.#proxy.serve(client);
    if (datagrams) return (client) => this.#names.serveDatagrams(client);
    return (client) => this.#names.serveStream(client);
  }

  /** Where a name leads to now that it was asked for. */
  #standIn(name: string, ports: readonly number[]): Promise<string> {
    const spec = this.#spec;
    return this.#exclusively(async () => {
      if (this.#spec !== spec || this.#closed) throw new Unreachable("failed", "the network of the sandbox changed");
      return this.#standIns.addressOf(name, ports);
    });
  }

  /** Variables for programs that start from now on. */
  async #tellPrograms(): Promise<void> {
    const payload = concat(Object.entries(this.variables).map(([name, value]) => ENCODER.encode(`${name}=${value}\0`)));
    await this.#ask(Op.variables, payload, "telling of the proxy");
  }

  /** What programs in the sandbox are told of the proxy. */
  get variables(): Readonly<Record<string, string>> {
    if (this.#spec.mode === "none") return {};
    const names = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
    const none = "localhost,127.0.0.1,::1";
    return { ...Object.fromEntries(names.map((name) => [name, PROXY_URL])), NO_PROXY: none, no_proxy: none };
  }

  async serve(port: number, target: EndpointTarget): Promise<AsyncDisposable> {
    checkPort(port);
    return this.#exclusively(async () => {
      const place = { address: LOOPBACK, port, datagrams: false };
      if (port === PROXY_PORT || this.#gates.has(keyOf(place)))
        throw new AleError("usage", `port ${port} of sandbox ${this.#host.id} is in use`, { hint: "take another one" });
      const endpoint = new Endpoint(port, target, join(this.#folder, `h${nextName++}`), this.#log);
      try {
        await this.#open(place, (client) => endpoint.serve(client));
      } catch (error) {
        await endpoint[Symbol.asyncDispose]();
        throw error;
      }
      this.#endpoints.set(port, endpoint);
      return { [Symbol.asyncDispose]: () => this.#exclusively(() => this.#endServing(port, endpoint)) };
    });
  }

  async #endServing(port: number, endpoint: Endpoint): Promise<void> {
    if (this.#endpoints.get(port) !== endpoint) return;
    this.#endpoints.delete(port);
    await endpoint[Symbol.asyncDispose]();
    await this.#close({ address: LOOPBACK, port, datagrams: false });
  }

  forward(port: number): Promise<string> {
    checkPort(port);
    let path = this.#forwards.get(port);
    if (path === undefined) {
      path = this.#forward(port);
      this.#forwards.set(port, path);
      path.catch(() => this.#forwards.delete(port));
    }
    return path;
  }

  /** Notes a connection from outside, which its maker counts and ends. */
  begin(port: number): OpenConnection {
    return this.#log.begin("inbound", LOOPBACK, port);
  }

  async #forward(port: number): Promise<string> {
    await this.#turn; // the sandbox may be going on as another one
    const name = `f${nextName++}`;
    const path = join(this.#folder, name);
    await this.#ask(
      Op.forward,
      this.#settings({ address: LOOPBACK, port, datagrams: false }, name),
      `leading to port ${port}`,
    );
    return path;
  }

  #settings({ address, port, datagrams }: Place, name?: string): Uint8Array {
    const path = name === undefined ? [] : [["path", `${this.#host.launcherFolder}/${name}`] as const];
    return encodeSettings([["address", address], ["port", port], ["datagrams", datagrams ? 1 : 0], ...path]);
  }

  async #open(place: Place, serve: (client: Socket) => Promise<void>): Promise<void> {
    const name = `g${nextName++}`;
    const sockets = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
      sockets.add(client);
      client.on("close", () => sockets.delete(client));
      void serve(client);
    });
    await listen(server, join(this.#folder, name));
    const gate: Gate = { ...place, name, server, sockets };
    try {
      await this.#listen(gate);
    } catch (error) {
      await this.#shut(gate);
      throw error;
    }
    this.#gates.set(keyOf(place), gate);
  }

  #listen(gate: Gate): Promise<unknown> {
    return this.#ask(Op.listen, this.#settings(gate, gate.name), `listening on port ${gate.port}`);
  }

  async #close(place: Place): Promise<void> {
    const gate = this.#gates.get(keyOf(place));
    if (gate === undefined) return;
    this.#gates.delete(keyOf(place));
    await this.#shut(gate);
    if (this.#host.alive) await this.#ask(Op.unlisten, this.#settings(place), `closing port ${place.port}`);
  }

  async #shut({ server, sockets, name }: Gate): Promise<void> {
    for (const socket of sockets) socket.destroy();
    server.close();
    await rm(join(this.#folder, name), { force: true });
  }

  /** Once the sandbox has gone on as another one of the launcher: the same ports lead to the same places. */
  async reopen(gone: Promise<void>): Promise<void> {
    gone.catch(() => {}); // heard of when it is this one's turn
    this.#forwards.clear();
    await this.#exclusively(async () => {
      await gone;
      for (const gate of this.#gates.values()) await this.#listen(gate);
      if (this.#spec.mode !== "none") await this.#tellPrograms();
    });
  }

  /** Ends every connection. The launcher's side ends with the sandbox. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#proxy.endAll("the sandbox ended");
    this.#standIns.forget();
    await Promise.all([...this.#endpoints.values()].map((endpoint) => endpoint[Symbol.asyncDispose]()));
    await Promise.all([...this.#gates.values()].map((gate) => this.#shut(gate)));
    this.#endpoints.clear();
    this.#gates.clear();
  }

  #ask(op: OpCode, payload: Uint8Array, what: string): Promise<unknown> {
    return this.#host.request(op, payload, what, REQUEST_MS);
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => {});
    return result;
  }
}

function keyOf({ address, port, datagrams }: Place): string {
  return `${datagrams ? "udp" : "tcp"} ${address}:${port}`;
}

function checkPort(port: number): void {
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return;
  throw new AleError("usage", `${port} is no port`, { hint: "give one from 1 to 65535" });
}

function listen(server: Server, path: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", (error) => reject(new AleError("sandbox", `${path}: ${error.message}`, { cause: error })));
  server.listen(path, resolve);
  return promise;
}
