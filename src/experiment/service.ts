/** The dashboard and API of a running experiment. */

import { join } from "node:path";
import { createApp } from "../api/app.ts";
import { serve } from "../api/serve.ts";
import { loadToken } from "../api/token.ts";
import { aleHome } from "../config/paths.ts";
import { AleError } from "../core/errors.ts";
import type { Store } from "../store/store.ts";
import type { RunOptions } from "./api.ts";

/**
 * Serves the run while it lasts. A port that is taken costs the dashboard and a warning, never the run: several runs side by
 * side are normal, and `ale serve` shows them all.
 */
export async function startService(
  options: RunOptions,
  store: Store,
  runId: string,
  stop: () => void,
): Promise<AsyncDisposable> {
  const none = { [Symbol.asyncDispose]: async () => {} };
  if (!options.serve) return none;
  const { hub } = options;
  const stopRun = (id: string) => {
    if (id === runId) stop();
    return id === runId;
  };
  try {
    const app = createApp({ store, hub, token: loadToken(join(aleHome(), "token")), stopRun });
    const { port } = options.experiment.service;
    const service = serve(app, { port, portOption: "--service.port" });
    hub.emit({ type: "service.listening", url: service.url });
    return service;
  } catch (error) {
    if (!(error instanceof AleError)) throw error;
    hub.emit({ type: "log", level: "warn", message: `no dashboard: ${error.message} (${error.hint ?? ""})` });
    return none;
  }
}
