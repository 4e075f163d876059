/**
 * The one way out of a sandbox: a proxy for HTTP and TLS, one per sandbox, behind a unix socket that the launcher joins with
 * ports in the sandbox's network namespace. `CONNECT` leads to TLS whose server name is the host that was asked for;
 * requests for `http://…` are passed on one per connection. Programs that know of no proxy come by an address that stands for a
 * name (`StandIns`), with TLS for that name, or one request to it. Everything is decided here, by `NetworkPolicy`.
 */

import type { Socket } from "node:net";
import { errorMessage } from "../../core/errors.ts";
import { parseAddress } from "./addresses.ts";
import { readClientHello } from "./client-hello.ts";
import type { ConnectionLog, OpenConnection } from "./connection-log.ts";
import * as http from "./http-head.ts";
import { Incoming } from "./incoming.ts";
import type { Lookups } from "./lookups.ts";
import { canonicalHost, type NetworkPolicy } from "./policy.ts";
import { joinSockets, type TunnelEnd, type TunnelOptions } from "./tunnel.ts";
import { reach, Unreachable, type Upstream } from "./upstream.ts";

const HEAD_MS = 10_000;
const HELLO_MS = 10_000;
const IDLE_MS = 120_000;
const TOTAL_MS = 3_600_000;
/** The first byte of TLS. */
const TLS_HANDSHAKE = 22;
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
  readonly lookups: Lookups;
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

  /** Serves one connection of the sandbox that is for the proxy. Never rejects. */
  serve(client: Socket): Promise<void> {
    return this.#serve(client, async (connection, incoming, established) => {
      const head = await this.#readHead(incoming);
      const work = head.method === "CONNECT" ? this.#tunnel : this.#forward;
      return work.call(this, { client, incoming, connection, head }, established);
    });
  }

  /** Serves one connection to the port of an address that stands for `host`, a canonical name. Never rejects. */
  serveNamed(client: Socket, host: string, port: number): Promise<void> {
    return this.#serve(client, async (connection, incoming, established) => {
      Object.assign(connection, { host, port });
      const { helloMs } = this.#options.times;
      const kind = await incoming.read("its first byte", helloMs, ([first]) =>
        first === undefined ? { kind: "more" } : { kind: first === TLS_HANDSHAKE ? "tls" : "http" },
      );
      if (kind.kind === "tls") {
        established();
        await this.#checkHello(incoming, host);
        const upstream = await this.#reach(connection, host, port);
        return this.#joinAndEnd({ client, incoming, connection }, upstream, () => incoming.release());
      }
      const head = await this.#readHead(incoming);
      if (!head.target.startsWith("/")) throw new Refused(400, "this stands for one host: it takes requests for paths");
      return this.#request({ client, incoming, connection, head }, { host, port }, head.target);
    });
  }

  async #readHead(incoming: Incoming): Promise<http.RequestHead> {
    const read = await incoming.read("the request", this.#options.times.headMs, http.readHead);
    if (read.kind === "bad") throw new Refused(400, read.reason);
    incoming.take(incoming.bytes.length - read.head.rest.length);
    return read.head;
  }

  async #serve(client: Socket, work: Work): Promise<void> {
    const connection = this.#options.log.begin("proxy");
    this.#clients.set(client, connection);
    client.on("error", () => {}); // its end is noticed by whoever reads
    let inTunnel = false;
    try {
      const more = this.#options.log.refusesMore("proxy");
      if (more !== undefined) throw new Refused(429, more);
      const { verdict, reason } = await work(connection, new Incoming(client), () => {
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
    const { policy } = this;
    const upstream = await reach(canonical, port, policy, (name) => this.#options.lookups.find(name, policy));
    connection.address = upstream.address;
    return upstream;
  }

  async #tunnel(request: ProxyRequest, established: () => void): Promise<TunnelEnd> {
    const { client, incoming, connection, head } = request;
    const authority = http.parseAuthority(head.target);
    if (authority?.port === undefined) throw new Refused(400, "CONNECT needs a host and a port");
    const upstream = await this.#reach(connection, authority.host, authority.port);
    return this.#joinAndEnd(request, upstream, async () => {
      established();
      client.write(ESTABLISHED);
      await this.#checkHello(incoming, connection.host);
      return incoming.release();
    });
  }

  async #checkHello(incoming: Incoming, host: string): Promise<void> {
    const hello = await incoming.read("the TLS greeting", this.#options.times.helloMs, readClientHello);
    if (hello.kind === "bad") throw new Refused(403, hello.reason);
    checkName(hello.kind === "hello" ? hello.serverName : undefined, host);
  }

  async #forward(request: ProxyRequest): Promise<TunnelEnd> {
    const absolute = http.parseAbsolute(request.head.target);
    if (absolute === undefined) throw new Refused(400, "this is a proxy: it takes CONNECT and requests for http://…");
    const authority = http.parseAuthority(absolute.authority);
    return this.#request(request, authority && { host: authority.host, port: authority.port ?? 80 }, absolute.path);
  }

  /** Passes on the one request of a connection, whose `Host` is who it is for. */
  async #request(request: ProxyRequest, asked: HostAndPort | undefined, path: string): Promise<TunnelEnd> {
    const { incoming, connection, head } = request;
    const [host, ...others] = http.valuesOf(head, "host");
    const named = host === undefined ? undefined : http.parseAuthority(host);
    const same = (a: { host: string; port: number | undefined } | undefined) =>
      a && `${canonicalHost(a.host)}:${a.port ?? 80}`;
    if (asked === undefined || others.length > 0 || same(named) !== same(asked))
      throw new Refused(403, "the Host header is not the host that was asked for");
    const framing = http.bodyFraming(head);
    if (framing === undefined) throw new Refused(400, "the length of its body is not clear");
    const upstream = await this.#reach(connection, asked.host, asked.port);
    const start = Buffer.from(http.forwardedHead(head, path), "latin1");
    const first = () => Buffer.concat([start, cut(framing, incoming.release())]);
    return this.#joinAndEnd(request, upstream, first, framing);
  }

  async #joinAndEnd(
    request: Joined,
    upstream: Upstream,
    first: () => Buffer | Promise<Buffer>,
    framing?: http.BodyFraming,
  ): Promise<TunnelEnd> {
    try {
      return await this.#join(request, upstream, await first(), framing);
    } finally {
      upstream.socket.destroy();
    }
  }

  /** Sends what was read already, then lets both talk. With `framing` the client says no more than one request. */
  async #join(
    { client, incoming, connection }: Joined,
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

interface Joined {
  readonly client: Socket;
  readonly incoming: Incoming;
  readonly connection: OpenConnection;
}

interface ProxyRequest extends Joined {
  readonly head: http.RequestHead;
}

interface HostAndPort {
  readonly host: string;
  readonly port: number;
}

/** `established`: from now on no answer of the proxy's own would be understood. */
type Work = (connection: OpenConnection, incoming: Incoming, established: () => void) => Promise<TunnelEnd>;

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
