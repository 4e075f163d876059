/**
 * From a client of the service to a port inside a sandbox: HTTP, WebSocket, bytes of TCP in a WebSocket. What comes back was
 * written by whoever works in the sandbox, and is kept from acting as this service in a browser.
 */

import { connect, type Socket } from "node:net";
import type { Context } from "hono";
import type { OpenConnection } from "../../sandbox/network/connection-log.ts";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import { FOREIGN_CONTENT } from "../guards.ts";
import { HttpError } from "../http-error.ts";
import type { SocketHandler } from "../serve.ts";

const TOTAL_MS = 3_600_000;
const OPEN_MS = 10_000;
/** What waits for the client before the sandbox is not read any more. */
const HIGH_WATER = 1 << 20;
/** What waits for the sandbox before the client is cut off, which cannot be held up. */
const MAX_WAITING = 16 << 20;
const MAX_WHOLE = 8 << 20;

/** The service's credentials and what browsers add for other services of this machine do not go into a sandbox. */
const KEPT_BACK = new Set([
  ...["host", "authorization", "x-key", "x-api-key", "cookie", "origin", "referer", "x-rock-target-port"],
  ...["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"],
]);
const KEPT_BACK_PREFIXES = ["sec-", "proxy-"];
/** All else could speak for the service: cookies, policies, service workers, other origins. */
const ANSWERED = new Set([
  ...["content-type", "content-length", "content-encoding", "content-language", "content-range", "content-disposition"],
  ...["accept-ranges", "allow", "date", "etag", "expires", "last-modified", "retry-after", "vary"],
]);

function headersFor(c: Context): Headers {
  const kept = [...c.req.raw.headers].filter(
    ([name]) => !KEPT_BACK.has(name) && !KEPT_BACK_PREFIXES.some((prefix) => name.startsWith(prefix)),
  );
  return new Headers(kept);
}

/** Whole where it is small and its length known, so that simple servers get it as they know it; otherwise as it comes. */
async function bodyOf(c: Context, connection: OpenConnection): Promise<ReadableStream | ArrayBuffer | null> {
  const length = c.req.header("content-length");
  if (length === undefined || Number(length) > MAX_WHOLE) {
    return counted(
      c.req.raw.body,
      (bytes) => (connection.bytesIn += bytes),
      () => {},
    );
  }
  const body = await c.req.arrayBuffer();
  connection.bytesIn += body.byteLength;
  return body.byteLength > 0 ? body : null;
}

function counted(body: ReadableStream<Uint8Array> | null, count: (bytes: number) => void, end: () => void) {
  if (body === null) {
    end();
    return null;
  }
  const transform = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      count(chunk.length);
      controller.enqueue(chunk);
    },
    flush: end,
    cancel: end,
  } as Transformer<Uint8Array, Uint8Array>);
  return body.pipeThrough(transform);
}

export function isWebSocket(c: Context): boolean {
  return c.req.header("upgrade")?.toLowerCase() === "websocket";
}

/** The path and query behind so many parts of the request's path, as they were written, without the parameter `dropped`. */
export function pathBehind(c: Context, parts: number, dropped?: string): string {
  const { pathname, search } = new URL(c.req.url);
  const parameters = search.slice(1).split("&");
  const kept = parameters.filter((text) => text !== "" && (dropped === undefined || text.split("=")[0] !== dropped));
  return `/${pathname.split("/").slice(parts).join("/")}${kept.length > 0 ? `?${kept.join("&")}` : ""}`;
}

/**
 * Passes a request on to `port`, and the answer back. `protocols` are offered to a WebSocket there where the client names none.
 * @throws HttpError 502 when nothing sensible answers there.
 */
export function proxyRequest(
  c: Context,
  sandbox: ManagedSandbox,
  port: number,
  path: string,
  protocols: readonly string[] = [],
): Promise<Response> {
  if (isWebSocket(c)) return proxyWebSocket(c, sandbox, port, path, protocols);
  return sandbox.use(async ({ network }) => {
    const unix = await network.forward(port);
    const connection = network.begin(port);
    const sent = await bodyOf(c, connection);
    const signal = AbortSignal.any([c.req.raw.signal, AbortSignal.timeout(TOTAL_MS)]);
    const request = { method: c.req.method, headers: headersFor(c), redirect: "manual", signal, unix } as const;
    const url = `http://127.0.0.1:${port}${path}`;
    let answer: Response;
    try {
      answer = await fetch(url, {
        ...request,
        ...(sent && { body: sent }),
        decompress: false,
        timeout: false,
      } as RequestInit);
    } catch (cause) {
      throw unanswered(connection, sandbox, port, cause);
    }
    const headers = [...answer.headers].filter(([name]) => ANSWERED.has(name));
    const location = ownLocation(c, answer, url, path);
    if (location !== undefined) headers.push(["location", location]);
    const body = counted(
      answer.body,
      (bytes) => (connection.bytesOut += bytes),
      () => connection.end("allowed"),
    );
    return new Response(body, {
      status: answer.status,
      headers: [...headers, ["Content-Security-Policy", FOREIGN_CONTENT], ["Cache-Control", "no-store"]],
    });
  });
}

/**
 * Where an answer leads to, seen from the client, if that is the same port. Clients follow with all their headers, the
 * service's token among them, so an answer that leads elsewhere leads nowhere.
 */
function ownLocation(c: Context, answer: Response, url: string, path: string): string | undefined {
  const told = answer.headers.get("location");
  const target = told === null ? null : URL.parse(told, url);
  if (target === null || target.origin !== new URL(url).origin) return undefined;
  const { pathname } = new URL(c.req.url);
  const [inside = "/"] = path.split("?");
  const prefix = pathname.endsWith(inside) ? pathname.slice(0, -inside.length) : pathname;
  return `${prefix}${target.pathname}${target.search}${target.hash}`;
}

function unanswered(connection: OpenConnection, sandbox: ManagedSandbox, port: number, cause: unknown): HttpError {
  // What fetch says goes on with advice for programmers.
  const reason = cause instanceof Error ? (cause.message.split(". ")[0] ?? cause.message) : "no answer";
  connection.end("failed", reason);
  const message = `port ${port} of sandbox ${sandbox.id} does not answer: ${reason}`;
  return new HttpError(502, "no_answer", message, "start what listens there first, on 127.0.0.1 or all addresses");
}

type Client = Bun.ServerWebSocket<SocketHandler>;

/** Turns the request into a WebSocket with `handler`. @throws HttpError 426 where the request is none. */
function upgrade(c: Context, handler: SocketHandler, protocol?: string): Response {
  const server = c.env as Bun.Server<SocketHandler>;
  const headers = new Headers(protocol ? [["Sec-WebSocket-Protocol", protocol]] : []);
  if (server.upgrade(c.req.raw, { data: handler, headers })) return new Response(null);
  throw new HttpError(426, "upgrade_required", "this is for WebSockets");
}

/** Joins a WebSocket of the client with one of the sandbox. */
function proxyWebSocket(
  c: Context,
  sandbox: ManagedSandbox,
  port: number,
  path: string,
  otherwise: readonly string[],
): Promise<Response> {
  return sandbox.use(async ({ network }) => {
    const unix = await network.forward(port);
    const connection = network.begin(port);
    const asked = (c.req.header("sec-websocket-protocol") ?? "").split(",").flatMap((text) => text.trim() || []);
    const headers = { ...Object.fromEntries(headersFor(c)), Host: `127.0.0.1:${port}` };
    // A server that takes none of those offered is asked again without: whether it has to is seen differently.
    const offers = asked.length > 0 ? [asked] : otherwise.length > 0 ? [otherwise, []] : [[]];
    let failure: unknown;
    for (const protocols of offers) {
      const inner = new WebSocket(`ws+unix://${unix}:${path}`, { protocols, headers } as unknown as string[]);
      inner.binaryType = "arraybuffer";
      try {
        await opened(inner);
      } catch (cause) {
        inner.close();
        failure = cause;
        continue;
      }
      return upgrade(c, joinWebSockets(inner, connection), asked.length > 0 ? inner.protocol : undefined);
    }
    throw unanswered(connection, sandbox, port, failure);
  });
}

function opened(socket: WebSocket): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => reject(new Error(`no answer within ${OPEN_MS / 1000} s`)), OPEN_MS);
  socket.onopen = () => resolve();
  socket.onerror = socket.onclose = () => reject(new Error("it speaks no WebSocket"));
  return promise.finally(() => clearTimeout(timer));
}

/** Codes that may be sent; the others only say how a connection ended. */
const isSendable = (code: number) => code === 1000 || (code >= 3000 && code <= 4999);

function joinWebSockets(inner: WebSocket, connection: OpenConnection): SocketHandler {
  const early: (string | ArrayBuffer)[] = [];
  let client: Client | undefined;
  const pass = (data: string | ArrayBuffer) => {
    connection.bytesOut += typeof data === "string" ? data.length : data.byteLength;
    if (client === undefined) early.push(data);
    else client.send(data);
  };
  inner.onmessage = ({ data }) => pass(data as string | ArrayBuffer);
  inner.onerror = () => {};
  inner.onclose = ({ code, reason }) => {
    connection.end("allowed");
    client?.close(isSendable(code) ? code : 1011, reason);
  };
  return {
    open(socket) {
      client = socket;
      for (const data of early) socket.send(data);
      if (inner.readyState >= WebSocket.CLOSING) socket.close(1011);
    },
    message(socket, message) {
      connection.bytesIn += message.length;
      inner.send(typeof message === "string" ? message : new Uint8Array(message));
      if (inner.bufferedAmount > MAX_WAITING) socket.close(1013, "the sandbox does not read");
    },
    drain() {},
    close: (code, reason) => inner.close(isSendable(code) ? code : 1000, reason),
  };
}

/** Bytes of a TCP connection to `port`, in binary messages both ways. */
export function proxyTcp(c: Context, sandbox: ManagedSandbox, port: number): Promise<Response> {
  if (!isWebSocket(c)) throw new HttpError(426, "upgrade_required", "this is for WebSockets");
  return sandbox.use(async ({ network }) => {
    const unix = await network.forward(port);
    const connection = network.begin(port);
    let inner: Socket;
    try {
      inner = await connected(unix);
    } catch (cause) {
      throw unanswered(connection, sandbox, port, cause);
    }
    try {
      return upgrade(c, joinSocket(inner, connection));
    } catch (error) {
      inner.destroy();
      throw error;
    }
  });
}

function connected(path: string): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connect({ path });
  socket.setTimeout(OPEN_MS, () => reject(new Error(`no answer within ${OPEN_MS / 1000} s`)));
  socket.once("connect", () => {
    socket.setTimeout(0);
    socket.pause();
    resolve(socket);
  });
  socket.once("error", reject);
  return promise;
}

function joinSocket(inner: Socket, connection: OpenConnection): SocketHandler {
  let client: Client | undefined;
  inner.on("data", (chunk: Buffer) => {
    connection.bytesOut += chunk.length;
    client?.send(new Uint8Array(chunk));
    if (client !== undefined && client.getBufferedAmount() > HIGH_WATER) inner.pause();
  });
  inner.on("error", (error) => connection.end("failed", error.message));
  inner.on("close", () => {
    connection.end("allowed");
    client?.close(1000);
  });
  return {
    open(socket) {
      client = socket;
      if (inner.destroyed) socket.close(1000);
      else inner.resume();
    },
    message(socket, message) {
      const bytes = typeof message === "string" ? Buffer.from(message) : message;
      connection.bytesIn += bytes.length;
      inner.write(bytes);
      if (inner.writableLength > MAX_WAITING) socket.close(1013, "the sandbox does not read");
    },
    drain: () => void inner.resume(),
    close: () => void inner.end(),
  };
}
