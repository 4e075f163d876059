/** Servers of a test's own on addresses of this machine, and what is said to the proxy from inside a sandbox. */

import { createServer, type Server, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { NetworkSpec } from "../../src/core/types.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { PROXY_PORT } from "../../src/sandbox/network/native-network.ts";
import { file, LIMITS, output } from "./support.ts";

/** A server that keeps what it is sent, and answers with `answer` when something came, and then closes unless `hold`. */
export interface Sink extends AsyncDisposable {
  readonly port: number;
  readonly received: () => Buffer;
  readonly connections: () => number;
}

export async function openSink(address: string, answer = "", { port = 0, hold = false } = {}): Promise<Sink> {
  const chunks: Buffer[] = [];
  const sockets = new Set<Socket>();
  let connections = 0;
  const server: Server = createServer((socket) => {
    connections++;
    sockets.add(socket);
    socket.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      if (hold) socket.write(answer);
      else socket.end(answer);
    });
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(port, address, resolve));
  return {
    port: (server.address() as { port: number }).port,
    received: () => Buffer.concat(chunks),
    connections: () => connections,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

/** What a TLS client says first, asking for `serverName`. */
export async function clientHello(serverName: string | undefined): Promise<Buffer> {
  const first = Promise.withResolvers<Buffer>();
  const server = createServer((socket) => {
    socket.once("data", (chunk: Buffer) => {
      first.resolve(chunk);
      socket.destroy();
    });
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  const named = serverName === undefined ? {} : { servername: serverName };
  const client = connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false, ...named });
  client.on("error", () => {});
  const hello = await first.promise;
  client.destroy();
  server.close();
  return hello;
}

let counter = 0;

/** Sends bytes to a port of the sandbox's loopback device, the proxy's unless another is given, and returns what comes back. */
export async function say(
  sandbox: NativeSandbox,
  bytes: string | Buffer,
  seconds = 5,
  port = PROXY_PORT,
): Promise<string> {
  const name = `said-${++counter}`;
  await sandbox.upload("/tmp", [file(name, bytes)]);
  const command = `exec 3<>/dev/tcp/127.0.0.1/${port} && { cat /tmp/${name} >&3; timeout ${seconds} head -c 4000 <&3; exec 3>&-; }`;
  return output(sandbox, command, { ...LIMITS, maxOutputBytes: 16_384 });
}

/** A request for `http://…`, as programs send it that know of the proxy. */
export function get(url: string, headers = ""): string {
  return `GET ${url} HTTP/1.1\r\nHost: ${/^http:\/\/([^/]*)/.exec(url)?.[1]}\r\n${headers}\r\n`;
}

export function connectTo(target: string): string {
  return `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;
}

/** The status line's number, or what there is instead. */
export function status(answer: string): number | string {
  const [, digits] = /^HTTP\/1\.1 (\d+)/.exec(answer) ?? [];
  return digits === undefined ? answer : Number(digits);
}

export const allowing = (...allow: string[]): NetworkSpec => ({ mode: "allowlist", allow });
