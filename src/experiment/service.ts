/** The dashboard and API of a running experiment. */

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Hono } from "hono";
import { createApp } from "../api/app.ts";
import { type Service, serve } from "../api/serve.ts";
import { loadToken } from "../api/token.ts";
import { aleHome, runServiceFile } from "../config/paths.ts";
import { AleError } from "../core/errors.ts";
import { listWaits } from "../core/waits.ts";
import type { Store } from "../store/store.ts";
import type { RunOptions } from "./api.ts";

/** The port nobody asked for: runs side by side each get one of their own. */
const DEFAULT_PORT = 4242;
const PORT_OPTION = "--service.port";

/** Before anything of the run exists. @throws AleError("service") when a port the experiment names is taken. */
export async function requirePort({ serve: served, experiment }: RunOptions): Promise<void> {
  const { port } = experiment.service;
  if (served && port !== DEFAULT_PORT) await serve(new Hono(), { port, portOption: PORT_OPTION }).close();
}

/**
 * Serves the run while it lasts. When the default port is taken, as by another run, a free one is used.
 * @throws AleError("service") when a port the experiment names is taken.
 */
export async function startService(
  options: RunOptions,
  store: Store,
  runId: string,
  stop: () => void,
): Promise<AsyncDisposable> {
  if (!options.serve) return { [Symbol.asyncDispose]: async () => {} };
  const { hub } = options;
  const stopRun = (id: string) => {
    if (id === runId) stop();
    return id === runId;
  };
  const waitsOf = (id: string) => (id === runId ? listWaits() : undefined);
  const app = createApp({ store, hub, token: loadToken(join(aleHome(), "token")), stopRun, listWaits: waitsOf });
  const service = bind(app, options.experiment.service.port);
  // For `ale doctor --run`: the port is not always the one that was asked for.
  const file = runServiceFile(options.outDir);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify({ pid: process.pid, url: service.url }));
  hub.emit({ type: "service.listening", url: service.url });
  return service;
}

function bind(app: ReturnType<typeof createApp>, port: number): Service {
  try {
    return serve(app, { port, portOption: PORT_OPTION });
  } catch (error) {
    if (port !== DEFAULT_PORT || !(error instanceof AleError) || error.code !== "service") throw error;
    return serve(app, { port: 0 });
  }
}
