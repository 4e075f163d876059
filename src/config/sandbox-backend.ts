/** `[sandbox]`: what makes sandboxes, and how weak they may be. */

import { z } from "zod";
import { ISOLATION_STEPS, type IsolationStep } from "../core/isolation.ts";

export const SANDBOX_BACKENDS = ["native", "podman", "docker", "rock"] as const;
export type SandboxBackendName = (typeof SANDBOX_BACKENDS)[number];

/** What names a backend and what it needs; the same in an experiment and on the command line. */
export interface SandboxBackend {
  readonly backend: SandboxBackendName;
  /** Of containers and services. */
  readonly image?: string | undefined;
  /** Of a service. */
  readonly url?: string | undefined;
  /** Name of the environment variable that holds the service's token. */
  readonly tokenEnv?: string | undefined;
  readonly leastIsolation: IsolationStep;
}

export const NATIVE: SandboxBackend = { backend: "native", leastIsolation: "container" };

/** Where the service's token is looked for when nobody says. */
export const TOKEN_VARIABLE = "ROCK_API_KEY";

export const sandboxBackendFields = {
  backend: z.enum(SANDBOX_BACKENDS).default("native").describe("What makes sandboxes (docs/sandbox.md)"),
  image: z
    .string()
    .min(1)
    .optional()
    .describe("Image of podman, docker and rock; by default what a task's profile says"),
  url: z
    .string()
    .regex(/^https?:\/\//, "http://… or https://…")
    .optional()
    .describe("Address of the service rock"),
  tokenEnv: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "the name of an environment variable")
    .optional()
    .describe("Environment variable that holds the service's token; by default ROCK_API_KEY"),
  leastIsolation: z
    .enum(ISOLATION_STEPS)
    .default("container")
    .describe("Weaker sandboxes are refused; a task may ask for more"),
};

/** What is wrong with a backend's settings: the field, and the rest of a sentence that begins with it. */
export function backendProblem(settings: SandboxBackend): readonly [field: string, message: string] | undefined {
  const { backend, url, tokenEnv, image } = settings;
  const remote = backend === "rock";
  if (remote && url === undefined) return ["url", 'is needed with backend "rock"'];
  if (!remote && url !== undefined) return ["url", `is of no use with backend "${backend}"`];
  if (!remote && tokenEnv !== undefined) return ["tokenEnv", `is of no use with backend "${backend}"`];
  if (backend === "native" && image !== undefined)
    return ["image", 'is of no use with backend "native", whose sandboxes are what a task\'s profile says'];
  return undefined;
}
