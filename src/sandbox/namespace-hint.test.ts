import { expect, test } from "bun:test";
import { namespaceHint } from "./namespace-hint.ts";

const LESS = "; or allow ordinary users weaker sandboxes: --least-isolation landlock";

test.each([
  [{ "user.max_user_namespaces": "0" }, "sysctl -w user.max_user_namespaces=65536"],
  [
    { "user.max_user_namespaces": "63000", "kernel.unprivileged_userns_clone": "0" },
    "sysctl -w kernel.unprivileged_userns_clone=1",
  ],
  [
    { "kernel.unprivileged_userns_clone": "1", "kernel.apparmor_restrict_unprivileged_userns": "1" },
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
  ],
  [{}, "no setting of the kernel forbids them: in a container, start it with --privileged"],
])("%o", (settings: Readonly<Record<string, string>>, command) => {
  expect(namespaceHint((name) => settings[name])).toBe(command + LESS);
});
