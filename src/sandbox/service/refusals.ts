/** What the service refuses by names of their own, which its faces answer differently. */

import { AleError } from "../../core/errors.ts";
import type { SandboxState } from "./lifecycle.ts";

const NEXT: Partial<Readonly<Record<SandboxState, string>>> = {
  pending: "wait until it is running",
  paused: "resume it first",
  stopped: "restart it first",
  archiving: "wait until it is archived, then restore it",
  archived: "restore it first",
};

/** Something was asked of a sandbox that only one that runs can do. */
export class WrongState extends AleError {
  constructor(sandbox: string, state: SandboxState) {
    super("usage", `sandbox ${sandbox} is ${state}`, { hint: NEXT[state] ?? "make a new one" });
    this.name = "WrongState";
  }
}

/** A sandbox has no such shell, terminal or command. */
export class PartMissing extends AleError {
  constructor(sandbox: string, part: string, hint: string) {
    super("usage", `sandbox ${sandbox} has no ${part}`, { hint });
    this.name = "PartMissing";
  }
}
