/** The options that choose what makes sandboxes. */

import { type Command, Option } from "commander";
import {
  NATIVE,
  SANDBOX_BACKENDS,
  type SandboxBackend,
  type SandboxBackendName,
} from "../../config/sandbox-backend.ts";
import { ISOLATION_STEPS, type IsolationStep } from "../../core/isolation.ts";

export interface BackendFlags {
  readonly backend: SandboxBackendName;
  readonly image?: string;
  readonly url?: string;
  readonly tokenEnv?: string;
  readonly leastIsolation: IsolationStep;
}

export function addBackendOptions(
  command: Command,
  backends: readonly SandboxBackendName[] = SANDBOX_BACKENDS,
): Command {
  return command
    .addOption(new Option("--backend <name>", "what makes sandboxes").choices(backends).default(NATIVE.backend))
    .option("--image <name>", "an image (ale images ls); of podman, docker and rock one of theirs")
    .addOption(
      new Option("--least-isolation <step>", "refuse weaker sandboxes; landlock allows them without namespaces")
        .choices(ISOLATION_STEPS)
        .default(NATIVE.leastIsolation),
    );
}

export function backendOf({ backend, image, url, tokenEnv, leastIsolation }: BackendFlags): SandboxBackend {
  return { backend, image, url, tokenEnv, leastIsolation };
}
