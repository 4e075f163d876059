/** `/v1/sandboxes/:id`: what a sandbox may reach, what it did reach, and ways to its own ports. */

import type { Context, Hono } from "hono";
import { REQUEST } from "../../sandbox/network/network-cap.ts";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { HttpError } from "../http-error.ts";
import { readBody } from "../json-body.ts";
import { pathBehind, proxyRequest, proxyTcp } from "./inbound.ts";
import { describeSandbox, NetworkBody, toNetwork } from "./shapes.ts";

export function addNetworkRoutes(app: Hono, service: SandboxService): void {
  const named = (c: Context): ManagedSandbox => service.get(c.req.param("id") ?? "");
  app.put("/:id/network", async (c) => {
    const sandbox = named(c);
    const network = toNetwork(await readBody(c, NetworkBody));
    service.networkCap?.check(REQUEST, network);
    await sandbox.changeNetwork(network);
    return c.json(describeSandbox(service, sandbox));
  });
  app.get("/:id/connections", (c) => {
    const { entries, usage } = named(c).connections;
    return c.json({
      usage,
      connections: entries.map(({ at, ...rest }) => ({ at: new Date(at).toISOString(), ...rest })),
    });
  });
  app.get("/:id/tcp/:port", (c) => proxyTcp(c, named(c), portOf(c)));
  app.all("/:id/ports/:port", (c) => proxyRequest(c, named(c), portOf(c), pathBehind(c, 6)));
  app.all("/:id/ports/:port/*", (c) => proxyRequest(c, named(c), portOf(c), pathBehind(c, 6)));
}

function portOf(c: Context): number {
  const port = Number(c.req.param("port"));
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port;
  throw new HttpError(400, "bad_request", `port: ${c.req.param("port")} is no port`);
}
