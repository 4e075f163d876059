/**
 * ROCK's ways to a port inside a sandbox (rl-rock 1.11, `rock/admin/entrypoints/sandbox_proxy_api.py`,
 * `rock/sandbox/service/sandbox_proxy_service.py`): the port comes from the path, a header or the query, and is 8080 otherwise.
 */

import type { Context, Hono } from "hono";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import { HttpError } from "../http-error.ts";
import { isWebSocket, pathBehind, proxyRequest, proxyTcp } from "../sandboxes/inbound.ts";
import { type Envelope, failedEnvelope } from "./envelope.ts";

const DEFAULT_PORT = 8080;
const FIRST_PORT = 1024;
const LAST_PORT = 65_535;
const HEADER = "x-rock-target-port";
const QUERY = "rock_target_port";
/** "", apis, envs, sandbox, v1, sandboxes, ID, proxy. */
const BEFORE_PATH = 8;

/** The one port that is named, and the path behind it. */
function target(c: Context): { readonly port: number; readonly path: string } {
  const parts = new URL(c.req.url).pathname.split("/").slice(BEFORE_PATH);
  const inPath = parts[0] === "port" ? parts[1] : undefined;
  const given = [inPath, c.req.header(HEADER), c.req.query(QUERY)].filter((text) => text !== undefined);
  if (given.length > 1) throw new HttpError(400, "bad_request", "name the target port once: path, header or query");
  const path = pathBehind(c, BEFORE_PATH + (inPath === undefined ? 0 : 2), QUERY);
  return { port: checkPort(given[0] ?? String(DEFAULT_PORT)), path: isWebSocket(c) ? withoutWs(path) : path };
}

function checkPort(text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port >= FIRST_PORT && port <= LAST_PORT) return port;
  throw new HttpError(400, "bad_request", `port ${text} is not from ${FIRST_PORT} to ${LAST_PORT}`);
}

/** WebSockets come below `ws`, which is not part of the path they lead to. */
const withoutWs = (path: string) => path.replace(/^\/ws(?:\/|(?=\?|$))/, "/");

/** Of a desktop's server in the image (noVNC's and websockify's), and what that speaks to clients that name no protocol. */
const VNC_PORT = 8006;
const VNC_PROTOCOLS = ["binary", "base64"];

export function addProxies(app: Hono, find: (id: string) => ManagedSandbox): void {
  const vnc = async (c: Context): Promise<Response> => {
    try {
      return await proxyRequest(c, find(c.req.param("id") ?? ""), VNC_PORT, pathBehind(c, BEFORE_PATH), VNC_PROTOCOLS);
    } catch (error) {
      return refused(c, error, "vnc http proxy failed");
    }
  };
  for (const path of ["vnc", "vnc/*"]) app.all(`/sandboxes/:id/${path}`, vnc);
  const proxy = async (c: Context): Promise<Response> => {
    try {
      const sandbox = find(c.req.param("id") ?? "");
      const { port, path } = target(c);
      return await proxyRequest(c, sandbox, port, path);
    } catch (error) {
      return refused(c, error, "http proxy failed");
    }
  };
  for (const path of ["proxy", "proxy/*"]) app.all(`/sandboxes/:id/${path}`, proxy);
  app.get("/sandboxes/:id/portforward", async (c) => {
    try {
      return await proxyTcp(c, find(c.req.param("id")), checkPort(c.req.query("port") ?? ""));
    } catch (error) {
      return refused(c, error, "portforward failed");
    }
  });
}

/** A port that is wrong is a plain 400, as ROCK has it; everything else is in the envelope. */
function refused(c: Context, error: unknown, message: string): Response {
  if (error instanceof HttpError && error.status === 400) return c.json({ detail: error.message }, 400);
  const envelope: Envelope = failedEnvelope(error, message);
  return c.json(envelope);
}
