/** How well a sandbox is isolated, in the few steps that a task or an experiment may ask for. */

import { AleError } from "./errors.ts";

/**
 * From weak to strong. `landlock`: a domain of Landlock and a filter of system calls, on the machine's own files. `container`:
 * namespaces and a root of its own; what a service elsewhere promises counts as that. `userns`: besides, its root is not the
 * host's. `cgroup`: besides, memory, processes and processor are limited by the kernel.
 */
export const ISOLATION_STEPS = ["landlock", "container", "userns", "cgroup"] as const;
export type IsolationStep = (typeof ISOLATION_STEPS)[number];

/** The step that a level such as `podman:root+userns+seccomp+cgroup1` reaches. */
export function isolationStep(level: string): IsolationStep {
  const parts = level.replace(/^[a-z0-9]+:/, "").split("+");
  if (parts.some((part) => part.startsWith("landlock"))) return "landlock";
  if (!parts.includes("userns")) return "container";
  // `cgroup2-nocpu` does not limit the processor.
  return parts.some((part) => part.startsWith("cgroup")) && !level.endsWith("-nocpu") ? "cgroup" : "userns";
}

/**
 * Refuses a level below `least`; `who` asks for it.
 * @throws AleError("sandbox")
 */
export function requireIsolation(level: string, least: IsolationStep, who: string): void {
  const reached = isolationStep(level);
  if (ISOLATION_STEPS.indexOf(reached) >= ISOLATION_STEPS.indexOf(least)) return;
  throw new AleError(
    "sandbox",
    `${who} asks for isolation "${least}" at least, and sandboxes here reach "${reached}"`,
    {
      hint: `they are ${level}; \`ale doctor\` says what would raise it`,
    },
  );
}

/** Refuses an environment that asks for more than sandboxes of `level` have. @throws AleError("sandbox") */
export function refuseWeaker(level: string, environment: { readonly leastIsolation?: IsolationStep }): void {
  const { leastIsolation } = environment;
  if (leastIsolation !== undefined) requireIsolation(level, leastIsolation, "the task");
}
