/** How Ale starts itself: one executable, several roles. `main.ts` is the other end. */

import { resolve } from "node:path";
import { isCompiled } from "../runtime/shipped.ts";
import { ROLE_ARGUMENT, type Role } from "./role.ts";

/**
 * The command that starts this program again as `role`. In the executable it names the running file through /proc, so that
 * an upgrade on disk cannot mix two versions in one run; in a checkout it is the same Bun on `src/main.ts`.
 */
export function selfCommand(role: Role, args: readonly string[] = []): string[] {
  const program = isCompiled ? ["/proc/self/exe"] : [process.execPath, resolve(import.meta.dir, "..", "main.ts")];
  return [...program, `${ROLE_ARGUMENT}${role}`, ...args];
}
