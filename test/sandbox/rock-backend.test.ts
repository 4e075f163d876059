/** The backend `rock`: a ROCK service, here `ale serve`'s own, with real sandboxes behind it. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { RemoteProvider } from "../../src/sandbox/backends/remote-provider.ts";
import { RockService } from "../../src/sandbox/backends/rock-service.ts";
import { openApi, type TestApi, TOKEN } from "./api-support.ts";
import { testRemote } from "./remote-support.ts";
import { ENVIRONMENT } from "./support.ts";

let api: TestApi;
let provider: RemoteProvider;
beforeAll(async () => {
  api = await openApi();
  provider = new RemoteProvider(new RockService({ url: api.url, token: TOKEN, image: "python:3.11" }));
});
afterAll(async () => {
  await provider?.close();
  await api?.[Symbol.asyncDispose]();
});

testRemote(
  () => provider,
  async () => api.sandboxes.list().length,
);

test("a shell that dies is told", async () => {
  await using sandbox = await provider.create(ENVIRONMENT);
  expect(await sandbox.run("exit 9", { timeoutMs: 5000, maxOutputBytes: 100 })).toMatchObject({
    ...{ status: "shell_died", exitCode: 9 },
  });
});

test("refusals and silence have reasons", async () => {
  const create = (options: { url: string; token?: string; image?: string }) =>
    new RemoteProvider(new RockService({ token: undefined, ...options })).create(ENVIRONMENT);
  await expect(create({ url: api.url, token: "wrong" })).rejects.toThrow("wants another token");
  await expect(create({ url: api.url, token: TOKEN, image: "none:1" })).rejects.toThrow('there is no image "none:1"');
  await expect(create({ url: "http://127.0.0.1:9", token: TOKEN })).rejects.toMatchObject({
    ...{ code: "sandbox", hint: "look whether the service runs and sandbox.url is its address" },
  });
});
