/** Which of the kernel's settings forbids user namespaces here, and the command that permits them. */

import { readFileSync } from "node:fs";

/** Settings below /proc/sys, with the values that forbid them to ordinary users or to all, and permit them. */
const SETTINGS = [
  { name: "user.max_user_namespaces", forbids: "0", permits: "65536" },
  { name: "kernel.unprivileged_userns_clone", forbids: "0", permits: "1" }, // Debian
  { name: "kernel.apparmor_restrict_unprivileged_userns", forbids: "1", permits: "0" }, // Ubuntu
] as const;

function readSetting(name: string): string | undefined {
  try {
    return readFileSync(`/proc/sys/${name.replaceAll(".", "/")}`, "utf8").trim();
  } catch {
    return undefined; // this kernel does not have it
  }
}

/** What to do where user namespaces cannot be made: a command for the setting that is in the way, and what helps without it. */
export function namespaceHint(read: (name: string) => string | undefined = readSetting): string {
  const found = SETTINGS.filter(({ name, forbids }) => read(name) === forbids);
  const commands = found.map(({ name, permits }) => `sysctl -w ${name}=${permits}`).join("; ");
  const first =
    commands === "" ? "no setting of the kernel forbids them: in a container, start it with --privileged" : commands;
  return `${first}; or allow ordinary users weaker sandboxes: --least-isolation landlock`;
}
