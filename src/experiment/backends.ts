/** The sandboxes of whichever backend was chosen. */

import { sandboxStateDir } from "../config/paths.ts";
import { backendProblem, isRemote, NATIVE, type SandboxBackend, TOKEN_VARIABLES } from "../config/sandbox-backend.ts";
import { AleError } from "../core/errors.ts";
import { requireIsolation } from "../core/isolation.ts";
import type { SandboxProvider } from "../core/ports.ts";
import type { RemoteProvider, RemoteService } from "../sandbox/backends/remote-provider.ts";
import type { NativeSandboxProvider } from "../sandbox/supervisor.ts";
import { maskedPaths, openSandboxes } from "./sandboxes.ts";

/**
 * Opens the backend, for tasks of `suite`; neither those nor `extraMasks` can be seen in a sandbox.
 * @throws AleError("sandbox") when it is not here, or weaker than the settings allow; AleError("usage") for wrong settings.
 */
export async function openBackend(
  settings: SandboxBackend = NATIVE,
  suite = "tasks",
  extraMasks: readonly string[] = [],
): Promise<SandboxProvider> {
  return isRemote(settings.backend) ? openRemoteBackend(settings) : openLocalBackend(settings, suite, extraMasks);
}

/** A backend of this machine: its sandboxes have Ale's init in them. */
export async function openLocalBackend(
  settings: SandboxBackend,
  suite = "tasks",
  extraMasks: readonly string[] = [],
): Promise<NativeSandboxProvider> {
  check(settings);
  const { backend, image, leastIsolation } = settings;
  if (isRemote(backend))
    throw new AleError("usage", `backend ${backend} is a service of its own, which clients can use without this one`, {
      hint: "choose native, podman or docker",
    });
  let provider: NativeSandboxProvider;
  if (backend === "native") {
    provider = await openNative(suite, extraMasks, leastIsolation === "landlock");
  } else {
    const { createContainerProvider } = await import("../sandbox/backends/container-provider.ts");
    const maskPaths = maskedPaths(suite, extraMasks);
    provider = await createContainerProvider({ engine: backend, image, maskPaths });
  }
  return withLeast(provider, leastIsolation);
}

/** By the launcher; where that cannot be, and weak ones are allowed, without namespaces. */
async function openNative(suite: string, extraMasks: readonly string[], weak: boolean): Promise<NativeSandboxProvider> {
  try {
    return await openSandboxes(suite, extraMasks);
  } catch (error) {
    if (!weak) throw error;
    const { createLandlockProvider } = await import("../sandbox/backends/landlock-provider.ts");
    return createLandlockProvider({ maskPaths: maskedPaths(suite, extraMasks), stateDir: sandboxStateDir() });
  }
}

/** A service elsewhere. */
export async function openRemoteBackend(settings: SandboxBackend): Promise<RemoteProvider> {
  check(settings);
  const { backend, image, url, leastIsolation } = settings;
  const { RemoteProvider } = await import("../sandbox/backends/remote-provider.ts");
  if (!isRemote(backend)) throw new AleError("internal", `${backend} is no service`);
  const token = process.env[settings.tokenEnv ?? TOKEN_VARIABLES[backend]];
  let service: RemoteService;
  if (backend === "e2b") {
    const { E2B_URL, E2bService } = await import("../sandbox/backends/e2b-service.ts");
    service = new E2bService({ url: url ?? E2B_URL, token, template: image });
  } else {
    const { RockService } = await import("../sandbox/backends/rock-service.ts");
    if (url === undefined) throw new AleError("internal", "rock has no address");
    service = new RockService({ url, token, image });
  }
  return withLeast(new RemoteProvider(service), leastIsolation);
}

function check(settings: SandboxBackend): void {
  const problem = backendProblem(settings);
  if (problem === undefined) return;
  const [field, message] = problem;
  const flag = `--${field.replace(/[A-Z]/, (letter) => `-${letter.toLowerCase()}`)}`;
  throw new AleError("usage", `sandbox.${field} ${message}`, {
    hint: `it is ${flag} on the command line, ${field} below [sandbox] in an experiment`,
  });
}

async function withLeast<T extends SandboxProvider>(provider: T, least: SandboxBackend["leastIsolation"]): Promise<T> {
  try {
    requireIsolation(provider.isolation, least, "leastIsolation");
    return provider;
  } catch (error) {
    await provider.close();
    throw error;
  }
}
