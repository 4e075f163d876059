/** Which backends there are besides the launcher's, for `ale doctor`. */

import { TOKEN_VARIABLE } from "../../config/sandbox-backend.ts";
import { AleError, errorMessage } from "../../core/errors.ts";
import type { SandboxProbe } from "../doctor.ts";
import type { ContainerEngineName } from "./container-engine.ts";
import { createContainerProvider } from "./container-provider.ts";

/** Makes a container with each engine that is here. What is not here is told, and is no fault. */
export async function probeBackends(): Promise<SandboxProbe[]> {
  const containers = await Promise.all([probeEngine("podman"), probeEngine("docker")]);
  return [...containers, probeRock()];
}

async function probeEngine(engine: ContainerEngineName): Promise<SandboxProbe> {
  const name = `backend ${engine}`;
  try {
    const started = performance.now();
    await using provider = await createContainerProvider({ engine, maskPaths: [] });
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    return { name, ok: true, required: false, detail: `${provider.isolation}; found and tried in ${seconds} s` };
  } catch (error) {
    const hint = error instanceof AleError ? error.hint : undefined;
    return { name, ok: false, required: false, detail: errorMessage(error), ...(hint === undefined ? {} : { hint }) };
  }
}

/** It is not asked: where it is says the experiment. */
function probeRock(): SandboxProbe {
  const found = process.env[TOKEN_VARIABLE] !== undefined;
  const detail = `a service elsewhere, not asked; ${TOKEN_VARIABLE} is ${found ? "" : "not "}set`;
  return { name: "backend rock", ok: true, required: false, detail };
}
