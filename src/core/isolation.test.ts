import { expect, test } from "bun:test";
import { isolationStep, requireIsolation } from "./isolation.ts";

test.each([
  ["root+userns+seccomp+cgroup1", "cgroup"],
  ["user+userns+seccomp+rlimits", "userns"],
  ["podman:root+userns+seccomp+cgroup2", "cgroup"],
  ["user+userns+seccomp+cgroup2-nocpu", "userns"],
  ["docker:root+seccomp+cgroup1", "container"],
  ["rock:remote", "container"],
  ["user+landlock7+seccomp+rlimits", "landlock"],
] as const)("%s reaches %s", (level, step) => {
  expect(isolationStep(level)).toBe(step);
});

test("less than what was asked for is refused, with what is there", () => {
  requireIsolation("root+userns+seccomp+cgroup1", "cgroup", "the task");
  requireIsolation("rock:remote", "container", "the task");
  expect(() => requireIsolation("rock:remote", "userns", "the task")).toThrow(
    'the task asks for isolation "userns" at least, and sandboxes here reach "container"',
  );
});
