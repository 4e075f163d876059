/** Binds the service to a port of this machine. */

import type { Hono } from "hono";
import { AleError, errorMessage } from "../core/errors.ts";

export interface Service extends AsyncDisposable {
  /** `http://127.0.0.1:4242` */
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

/** What a WebSocket of the service does, given with `upgrade`. */
export interface SocketHandler {
  open(socket: Bun.ServerWebSocket<SocketHandler>): void;
  message(socket: Bun.ServerWebSocket<SocketHandler>, message: string | Buffer): void;
  /** There is room again for what is sent. */
  drain(): void;
  close(code: number, reason: string): void;
}

/** Bytes of one message, and of what waits to be sent. */
const MAX_SOCKET_BYTES = 16 << 20;

export interface ServeOptions {
  readonly port: number;
  /** 127.0.0.1 unless the operator decides otherwise. */
  readonly host?: string;
  /** What the operator gives to choose another port, for the message when this one is taken. */
  readonly portOption?: string;
}

/** Seconds of silence before a connection is cut; event streams speak more often than that. */
const IDLE_SECONDS = 60;

/** @throws AleError("service") when the port is in use or may not be used. */
export function serve(app: Hono, options: ServeOptions): Service {
  const { port, host = "127.0.0.1", portOption = "--port" } = options;
  let server: Bun.Server<SocketHandler>;
  try {
    server = Bun.serve<SocketHandler>({
      fetch: app.fetch,
      websocket: {
        ...{ maxPayloadLength: MAX_SOCKET_BYTES, backpressureLimit: MAX_SOCKET_BYTES, closeOnBackpressureLimit: true },
        open: (socket) => socket.data.open(socket),
        message: (socket, message) => socket.data.message(socket, message),
        drain: (socket) => socket.data.drain(),
        close: (socket, code, reason) => socket.data.close(code, reason),
      },
      ...{ hostname: host, port, idleTimeout: IDLE_SECONDS, development: false },
      // Outside of development Bun 1.4.5 shares ports by default: a second service would take half of the requests.
      reusePort: false,
    });
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (code === "EADDRINUSE") {
      throw new AleError("service", `port ${port} of ${host} is in use`, {
        hint: `${portOption} 0 picks a free one; fuser -n tcp ${port} shows who has it`,
        cause,
      });
    }
    if (code === "EACCES") {
      throw new AleError("service", `port ${port} of ${host} may not be used by this user`, {
        hint: `give one above 1023: ${portOption} 4242`,
        cause,
      });
    }
    throw new AleError("service", `the service cannot listen on ${host}:${port}: ${errorMessage(cause)}`, {
      hint: `${portOption} 0 picks a free port`,
      cause,
    });
  }
  const close = async () => {
    // Event streams never end by themselves.
    await server.stop(true);
  };
  const bound = server.port ?? port;
  const shown = host.includes(":") ? `[${host}]` : host;
  return { url: `http://${shown}:${bound}`, port: bound, close, [Symbol.asyncDispose]: close };
}
