/** Choosing what makes sandboxes, and how weak they may be. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { runCli } from "../../src/cli/program.ts";
import { openApi, type TestApi, TOKEN } from "./api-support.ts";
import { ENVIRONMENT, openProvider, type TestProvider } from "./support.ts";

let api: TestApi;
let provider: TestProvider;
beforeAll(async () => {
  api = await openApi();
  provider = await openProvider({ cgroups: "off" });
});
afterAll(async () => {
  await provider?.close();
  await api?.[Symbol.asyncDispose]();
});

class Sink {
  text = "";
  write(text: string): void {
    this.text += text;
  }
}

async function ale(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const code = await runCli(["sandbox", "run", ...argv], { stdout, stderr, env: { ALE_HOME: api.folder } });
  return { code, out: stdout.text, err: stderr.text };
}

test("run --backend rock: a command at a service elsewhere", async () => {
  process.env.ALE_TEST_ROCK = TOKEN;
  const rock = ["--backend", "rock", "--url", api.url, "--token-env", "ALE_TEST_ROCK", "--image", "host"];
  expect(await ale(...rock, "--memory", "64", "--", "sh", "-c", "echo out; echo err >&2; exit 3")).toEqual({
    ...{ code: 3, out: "out\n", err: "err\n" },
  });
  expect((await ale(...rock, "--least-isolation", "userns", "--", "true")).err).toContain(
    'leastIsolation asks for isolation "userns" at least, and sandboxes here reach "container"',
  );
  delete process.env.ALE_TEST_ROCK;
  expect((await ale(...rock, "--", "true")).err).toContain("wants another token");
});

test("settings that cannot be are refused before anything is made", async () => {
  expect(await ale("--backend", "rock", "--", "true")).toMatchObject({ code: 2, err: expect.stringContaining("url") });
  expect(await ale("--backend", "lxc", "--", "true")).toMatchObject({ code: 2, err: expect.stringContaining("lxc") });
  expect(await ale("--image", "debian:12", "--", "true")).toMatchObject({ code: 2 });
});

test("a task that asks for more than there is gets no sandbox, nor a warm one", async () => {
  const asking = { ...ENVIRONMENT, leastIsolation: "cgroup" } as const;
  const refusal = 'the task asks for isolation "cgroup" at least, and sandboxes here reach "userns"';
  await expect(provider.create(asking)).rejects.toThrow(refusal);
  expect(() => provider.warm(asking, 1)).toThrow(refusal);
  await using sandbox = await provider.create({ ...ENVIRONMENT, leastIsolation: "userns" });
  expect(sandbox.isolation).toContain("rlimits");
});
