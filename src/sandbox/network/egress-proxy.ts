/**
 * The one way out of a sandbox: a proxy for HTTP and TLS, one per sandbox, behind a unix socket that the launcher joins with
 * a port in the sandbox's network namespace. `CONNECT` leads to TLS whose server name is the host that was asked for;
 * requests for `http://…` are passed on one per connection. Everything is decided here, by `NetworkPolicy`.
 */

import type { Socket } from "node:net";
import { errorMessage } from "../../core/errors.ts";
import { parseAddress } from "./addresses.ts";
import { readClientHello } from "./client-hello.ts";
import type { ConnectionLog, OpenConnection } from "./connection-log.ts";
import * as http from "./http-head.ts";
import { Incoming } from "./incoming.ts";
import { canonicalHost, type NetworkPolicy } from "./policy.ts";
import { joinSockets, type TunnelEnd, type TunnelOptions } from "./tunnel.ts";
import { type Resolve, reach, Unreachable, type Upstream } from "./upstream.ts";

const HEAD_MS = 10_000;
const HELLO_MS = 10_000;
const IDLE_MS = 120_000;
const TOTAL_MS = 3_600_000;
const ESTABLISHED = "HTTP/1.1 200 Connection established\r\n\r\n";

/** Deadlines in milliseconds; tests shorten them. */
export interface ProxyTimes {
  readonly headMs: number;
  readonly helloMs: number;
  readonly idleMs: number;
  readonly totalMs: number;
}
export const PROXY_TIMES: ProxyTimes = { headMs: HEAD_MS, helloMs: HELLO_MS, idleMs: IDLE_MS, totalMs: TOTAL_MS };

/** A request that is answered with an error. */
class Refused extends Error {
  readonly status: number;
  readonly verdict: "denied" | "failed";

  constructor(status: number, reason: string, verdict: "denied" | "failed" = "denied") {
    super(reason);
    this.status = status;
    this.verdict = verdict;
  }
}

const STATUS_TEXTS: Readonly<Record<number, string>> = {
  400: "Bad Request",
  403: "Forbidden",
  429: "Too Many Requests",
};

export interface EgressProxyOptions {
  readonly policy: NetworkPolicy;
  readonly log: ConnectionLog;
  readonly resolve: Resolve;
  readonly times: ProxyTimes;
}

export class EgressProxy {
  /** Replaced when the sandbox's network changes; what is open is closed by then. */
  policy: NetworkPolicy;
  readonly #options: EgressProxyOptions;
  readonly #clients = new Map<Socket, OpenConnection>();

  constructor(options: EgressProxyOptions) {
    this.#options = options;
    this.policy = options.policy;
  }

  /** Ends all connections. */
  endAll(reason: string): void {
    for (const [client, connection] of this.#clients) {
      connection.end("allowed", reason);
      client.destroy();
    }
  }

  /** Serves one connection of the sandbox. Never rejects. */
  async serve(client: Socket): Promise<void> {
    const connection = this.#options.log.begin("proxy");
    this.#clients.set(client, connection);
    client.on("error", () => {}); // its end is noticed by whoever reads
    let inTunnel = false;
    try {
      const more = this.#options.log.refusesMore("proxy");
      if (more !== undefined) throw new Refused(429, more);
      const incoming = new Incoming(client);
      const read = await incoming.read("the request", this.#options.times.headMs, http.readHead);
      if (read.kind === "bad") throw new Refused(400, read.reason);
      incoming.take(incoming.bytes.length - read.head.rest.length);
      const work = read.head.method === "CONNECT" ? this.#tunnel : this.#forward;
      const { verdict, reason } = await work.call(this, { client, incoming, connection, head: read.head }, () => {
        inTunnel = true;
      });
      connection.end(verdict, reason);
    } catch (error) {
      this.#refuse(client, connection, error, inTunnel);
    } finally {
      this.#clients.delete(client);
    }
  }

  #refuse(client: Socket, connection: OpenConnection, error: unknown, inTunnel: boolean): void {
    const denied = (error instanceof Refused || error instanceof Unreachable) && error.verdict === "denied";
    const reason = errorMessage(error);
    connection.end(denied ? "denied" : "failed", reason);
    const status = error instanceof Refused ? error.status : error instanceof Unreachable && denied ? 403 : 502;
    if (inTunnel || client.destroyed) client.destroy();
    else {
      const body = `ale: ${reason}\n`;
      const head = `HTTP/1.1 ${status} ${STATUS_TEXTS[status] ?? "Bad Gateway"}\r\nContent-Type: text/plain\r\n`;
      client.end(`${head}Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`);
      setTimeout(() => client.destroy(), 1000); // whether or not it reads the answer
    }
  }

  /** Checks who is asked for, and connects there. */
  async #reach(connection: OpenConnection, host: string | undefined, port: number): Promise<Upstream> {
    connection.port = port;
    connection.host = host ?? "";
    const canonical = host === undefined ? undefined : canonicalHost(host);
    if (canonical === undefined) throw new Refused(400, "the host is neither a name nor an address");
    connection.host = canonical;
    const refusal = this.policy.refuseHost(canonical, port);
    if (refusal !== undefined) throw new Refused(403, refusal);
    const upstream = await reach(canonical, port, this.policy, this.#options.resolve);
    connection.address = upstream.address;
    return upstream;
  }

  async #tunnel(request: ProxyRequest, established: () => void): Promise<TunnelEnd> {
    const { client, incoming, connection, head } = request;
    const authority = http.parseAuthority(head.target);
    if (authority?.port === undefined) throw new Refused(400, "CONNECT needs a host and a port");
    const upstream = await this.#reach(connection, authority.host, authority.port);
    try {
      established();
      client.write(ESTABLISHED);
      const hello = await incoming.read("the TLS greeting", this.#options.times.helloMs, readClientHello);
      if (hello.kind === "bad") throw new Refused(403, hello.reason);
      checkName(hello.kind === "hello" ? hello.serverName : undefined, connection.host);
      return await this.#join(request, upstream, incoming.release());
    } finally {
      upstream.socket.destroy();
    }
  }

  async #forward(request: ProxyRequest): Promise<TunnelEnd> {
    const { incoming, connection, head } = request;
    const absolute = http.parseAbsolute(head.target);
    if (absolute === undefined) throw new Refused(400, "this is a proxy: it takes CONNECT and requests for http://…");
    const authority = http.parseAuthority(absolute.authority);
    const [host, ...others] = http.valuesOf(head, "host");
    const named = host === undefined ? undefined : http.parseAuthority(host);
    const same = (a: typeof authority) => a && `${canonicalHost(a.host)}:${a.port ?? 80}`;
    if (authority === undefined || others.length > 0 || same(named) !== same(authority))
      throw new Refused(403, "the Host header is not the host that was asked for");
    const framing = http.bodyFraming(head);
    if (framing === undefined) throw new Refused(400, "the length of its body is not clear");
    const upstream = await this.#reach(connection, authority.host, authority.port ?? 80);
    try {
      const start = Buffer.from(http.forwardedHead(head, absolute.path), "latin1");
      const rest = incoming.release();
      return await this.#join(request, upstream, Buffer.concat([start, cut(framing, rest)]), framing);
    } finally {
      upstream.socket.destroy();
    }
  }

  /** Sends what was read already, then lets both talk. With `framing` the client says no more than one request. */
  async #join(
    { client, incoming, connection }: ProxyRequest,
    upstream: Upstream,
    first: Buffer,
    framing?: http.BodyFraming,
  ): Promise<TunnelEnd> {
    connection.bytesOut += first.length;
    const exceeded = connection.exceeds();
    if (exceeded !== undefined) return { verdict: "denied", reason: exceeded };
    if (first.length > 0) upstream.socket.write(first);
    if (incoming.ended) upstream.socket.end();
    const { idleMs, totalMs } = this.#options.times;
    const options: TunnelOptions = { connection, first: "out", idleMs, totalMs };
    const filter = framing && ((chunk: Buffer) => cut(framing, chunk));
    return joinSockets(client, upstream.socket, filter === undefined ? options : { ...options, filter });
  }
}

interface ProxyRequest {
  readonly client: Socket;
  readonly incoming: Incoming;
  readonly connection: OpenConnection;
  readonly head: http.RequestHead;
}

/** An address has no server name (RFC 6066), a host has its own. */
function checkName(serverName: string | undefined, host: string): void {
  if (serverName === undefined) {
    if (parseAddress(host) !== undefined) return;
    throw new Refused(403, "its TLS greeting names no server");
  }
  if (canonicalHost(serverName) !== host) throw new Refused(403, "its TLS greeting names another server");
}

/** The part of a chunk that belongs to the one request. */
function cut(framing: http.BodyFraming, chunk: Buffer): Buffer {
  const taken = framing.take(chunk);
  if (taken < 0) throw new Refused(400, "its body is malformed");
  return chunk.subarray(0, taken);
}
