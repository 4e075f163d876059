/** Warm pools: what is handed out, what is counted, and how much is kept. */

import { afterEach, expect, test } from "bun:test";
import { commitImage } from "../../src/images/commit-image.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { openApi } from "./api-support.ts";
import { onImage, openImageHome } from "./image-support.ts";
import { ENVIRONMENT, LIMITS, openProvider, output, type TestProvider, until } from "./support.ts";

const opened: AsyncDisposable[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]();
});

async function open(): Promise<TestProvider> {
  const provider = await openProvider();
  opened.push({ [Symbol.asyncDispose]: () => provider.close() });
  return provider;
}

const ready = (provider: TestProvider, count: number) =>
  until(`${count} warm sandboxes`, 20_000, () => provider.warmCount === count);
const other = (pids: number) => ({ ...ENVIRONMENT, pids });

test("claims and misses are counted, pool by pool", async () => {
  const provider = await open();
  provider.warm(ENVIRONMENT, 2);
  provider.warmBare(ENVIRONMENT, 1);
  await ready(provider, 3);
  await Promise.all([1, 2, 3].map(() => provider.create(ENVIRONMENT)));
  await provider.createBare(ENVIRONMENT);
  await provider.create(other(33)); // of no pool
  const counts = provider.warmPools.map(({ shell, target, claims, misses }) => [shell, target, claims, misses]);
  expect(counts).toEqual([
    [true, 2, 2, 1],
    [false, 1, 1, 0],
  ]);
  await ready(provider, 3);
});

test("a bare one starts its shell when it is used", async () => {
  const provider = await open();
  provider.warmBare(ENVIRONMENT, 1);
  await ready(provider, 1);
  const sandbox = await provider.createBare(ENVIRONMENT);
  expect((await sandbox.statistics()).processes).toBe(0);
  expect(await output(sandbox, "pwd")).toBe("/work\n");
});

test("there are at most sixteen pools; the one that was mentioned longest ago is given up", async () => {
  const provider = await open();
  for (let pids = 10; pids < 27; pids++) provider.warm(other(pids), 1);
  await ready(provider, 16);
  const pids = provider.warmPools.map(({ environment }) => environment.pids);
  expect(pids).toEqual(Array.from({ length: 16 }, (_, i) => 11 + i));
  for (const each of pids) provider.warm(other(each), 0);
  expect(provider.warmPools).toEqual([]);
});

test("an environment that cannot be made is tried again ever later, and counted", async () => {
  const provider = await open();
  provider.warm({ ...ENVIRONMENT, profile: "nonesuch" }, 1);
  await until("two failures", 20_000, () => (provider.warmPools[0]?.failures ?? 0) >= 2);
  expect(provider.warmPools).toMatchObject([{ ready: 0, target: 1 }]);
  await expect(provider.create({ ...ENVIRONMENT, profile: "nonesuch" })).rejects.toThrow("nonesuch");
});

test("a service keeps some of what was asked for lately, and nothing when it is closed", async () => {
  const provider = await open();
  const capacity = { memoryBytes: 2 ** 33, cpus: 64, diskBytes: 2 ** 33, count: 16 };
  const service = new SandboxService({ provider, capacity, warm: 2 });
  for (let pids = 10; pids < 15; pids++) await service.create({ environment: other(pids) });
  await ready(provider, 8);
  expect(provider.warmPools.map(({ environment }) => environment.pids)).toEqual([11, 12, 13, 14]);
  await service.create({ environment: other(14) });
  expect(provider.warmPools.at(-1)).toMatchObject({ claims: 1, misses: 0 });
  await service.close();
  expect(provider.warmCount).toBe(0);
});

test("the API tells of them; ROCK's warm-up makes one", async () => {
  const api = await openApi();
  opened.push(api);
  expect((await api.call("GET", "/v1/sandboxes")).json.warm).toEqual([]);
  const body = { image: "python:3.11" };
  expect((await api.call("POST", "/apis/envs/sandbox/v1/warmup/tasks", body)).json.status).toBe("Success");
  await until("a warm sandbox", 20_000, () => api.sandboxes.provider.warmCount === 1);
  const start = await api.call("POST", "/apis/envs/sandbox/v1/start_async", body);
  expect(start.json.status).toBe("Success");
  expect((await api.call("GET", "/v1/sandboxes")).json.warm).toMatchObject([{ target: 1, claims: 1, misses: 0 }]);
});

test("what waits of an image that is another one by now is not handed out", async () => {
  const scene = await openImageHome();
  opened.push(scene);
  const { provider, images } = scene;
  const commit = async (content: string) => {
    await using sandbox = await provider.create(ENVIRONMENT);
    await sandbox.run(`echo ${content} > /opt/what`, LIMITS);
    await using files = await sandbox.snapshotFiles();
    await commitImage(images, provider, files, { name: "mine", source: "s", workdir: "/work" });
  };
  await commit("old");
  provider.warm(onImage("mine"), 2);
  await until("two warm sandboxes", 20_000, () => provider.warmCount === 2);
  expect(await output(await provider.create(onImage("mine")), "cat /opt/what")).toBe("old\n");
  await commit("new");
  expect(await output(await provider.create(onImage("mine")), "cat /opt/what")).toBe("new\n");
});
