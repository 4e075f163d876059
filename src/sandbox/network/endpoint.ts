/** Where a port inside a sandbox leads to, when that is one handler or one socket of this machine. */

import { connect, type Socket } from "node:net";
import { errorMessage } from "../../core/errors.ts";
import type { EndpointTarget } from "../../core/ports.ts";
import type { ConnectionLog } from "./connection-log.ts";
import { joinSockets } from "./tunnel.ts";

const CONNECT_MS = 10_000;
/** Answers of a model may take their time. */
const IDLE_MS = 900_000;
const TOTAL_MS = 86_400_000;

export class Endpoint implements AsyncDisposable {
  readonly #port: number;
  readonly #log: ConnectionLog;
  readonly #target: { readonly path: string } | { readonly host: string; readonly port: number };
  readonly #server: Bun.Server<undefined> | undefined;
  readonly #clients = new Set<Socket>();

  /** @param handlerPath where a handler's own socket is to be, if the target is one */
  constructor(port: number, target: EndpointTarget, handlerPath: string, log: ConnectionLog) {
    this.#port = port;
    this.#log = log;
    if ("fetch" in target) {
      const { fetch } = target;
      this.#server = Bun.serve({
        unix: handlerPath,
        fetch: (request) => fetch(request),
        error: () => new Response("the handler failed\n", { status: 500 }),
      });
      this.#target = { path: handlerPath };
    } else this.#target = "unix" in target ? { path: target.unix } : { host: target.host, port: target.port };
  }

  /** Serves one connection of the sandbox. Never rejects. */
  async serve(client: Socket): Promise<void> {
    const connection = this.#log.begin("endpoint", "127.0.0.1", this.#port);
    client.on("error", () => {});
    const more = this.#log.refusesMore("endpoint");
    if (more !== undefined) {
      connection.end("denied", more);
      client.destroy();
      return;
    }
    this.#clients.add(client);
    try {
      const upstream = await openSocket(this.#target);
      const { verdict, reason } = await joinSockets(client, upstream, {
        ...{ connection, first: "out", idleMs: IDLE_MS, totalMs: TOTAL_MS },
      });
      connection.end(verdict, reason);
    } catch (error) {
      connection.end("failed", errorMessage(error));
    } finally {
      client.destroy();
      this.#clients.delete(client);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
    await this.#server?.stop(true);
  }
}

function openSocket(
  target: { readonly path: string } | { readonly host: string; readonly port: number },
): Promise<Socket> {
  const socket = connect({ ...target, allowHalfOpen: true } as Parameters<typeof connect>[0] & object);
  socket.pause();
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const timer = setTimeout(() => socket.destroy(new Error("the endpoint does not answer")), CONNECT_MS);
  socket.once("connect", () => {
    clearTimeout(timer);
    resolve(socket);
  });
  socket.once("error", (error) => {
    clearTimeout(timer);
    reject(error);
  });
  return promise;
}
