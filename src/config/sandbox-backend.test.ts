import { expect, test } from "bun:test";
import { ExperimentSchema } from "./experiment.ts";

const problems = (sandbox: Record<string, unknown>, more: Record<string, unknown> = {}) => {
  const result = ExperimentSchema.safeParse({ sandbox, ...more });
  return result.success ? [] : result.error.issues.map(({ path, message }) => `${path.join(".")} ${message}`);
};

test("backends with what they need, and nothing they have no use for", () => {
  expect(problems({})).toEqual([]);
  expect(problems({ backend: "podman", image: "debian:12", leastIsolation: "cgroup" })).toEqual([]);
  expect(problems({ backend: "rock", url: "http://box:4242", tokenEnv: "MY_KEY" })).toEqual([]);
  expect(problems({ backend: "rock" })).toEqual(['sandbox.url is needed with backend "rock"']);
  expect(problems({ url: "http://box:4242" })).toEqual(['sandbox.url is of no use with backend "native"']);
  expect(problems({ image: "debian:12" })).toHaveLength(1);
  expect(problems({ backend: "rock", url: "box:4242" })).toEqual(["sandbox.url http://… or https://…"]);
});

test("what forks sandboxes needs a backend that can", () => {
  const [problem] = problems({ backend: "rock", url: "http://box:4242" }, { resampling: {} });
  expect(problem).toContain('sandbox.backend is "rock", whose sandboxes cannot be forked');
});
