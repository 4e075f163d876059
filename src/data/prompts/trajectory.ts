/** What the agent is told that solves a task: the instruction, as anybody would get it. */

import type { Task } from "../../core/types.ts";

export function trajectoryPrompt({ instruction }: Task): string {
  return instruction;
}
