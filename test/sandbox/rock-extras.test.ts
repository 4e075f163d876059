/** What ROCK's service has beside sandboxes and sessions: a desktop's port, E2B's control plane, EnvHub, maintenance. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { EnvHub } from "../../src/api/rock/envhub.ts";
import { type Json, openApi, type TestApi, TOKEN } from "./api-support.ts";
import { compileProbe, until } from "./support.ts";

const BASE = "/apis/envs/sandbox/v1";
let api: TestApi;
let listener: Uint8Array;
beforeAll(async () => {
  [api, listener] = [await openApi(), await compileProbe("listener")];
});
afterAll(() => api?.[Symbol.asyncDispose]());
const rock = async (method: string, path: string, body?: unknown): Promise<Json> =>
  (await api.call(method, BASE + path, body)).json;

/** A sandbox with a listener at the port of a desktop. */
async function openDesktop(id: string, mode: string): Promise<void> {
  await rock("POST", "/start", { image: "host", memory: "64m", disk: "16m", cpus: 1, sandbox_id: id });
  await api.call("PUT", `/v1/sandboxes/${id}/files?path=/bin-listener&mode=755`, listener);
  await api.call("POST", `/v1/sandboxes/${id}/exec`, { command: `/bin-listener ${mode} 8006` });
}

test("vnc leads to port 8006 inside, and says so where nothing listens there", async () => {
  await rock("POST", "/start", { image: "host", memory: "64m", disk: "16m", cpus: 1, sandbox_id: "bare" });
  expect(await rock("GET", "/sandboxes/bare/vnc/vnc.html")).toMatchObject({
    ...{ status: "Failed", message: "vnc http proxy failed", result: null },
    error: expect.stringContaining("port 8006 of sandbox bare does not answer"),
  });
  expect(await rock("GET", "/sandboxes/nobody/vnc")).toMatchObject({ error: "Sandbox nobody not found" });
  await openDesktop("http", "http");
  const page = await fetch(`${api.url}${BASE}/sandboxes/http/vnc/vnc.html?resize=scale`, {
    headers: { "X-Key": TOKEN },
  });
  expect(await page.text()).toStartWith("GET /vnc.html?resize=scale HTTP/1.1\r\n");
  expect((await fetch(`${api.url}${BASE}/sandboxes/http/vnc`)).status).toBe(401);
  await openDesktop("socket", "websocket");
  const url = `${api.url.replace("http", "ws")}${BASE}/sandboxes/socket/vnc/websockify`;
  const socket = new WebSocket(url, { headers: { "X-Key": TOKEN } } as unknown as string[]);
  const messages: unknown[] = [];
  socket.onmessage = ({ data }) => messages.push(data);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  socket.send("hello");
  await until("the echo", 5000, () => messages.length > 0);
  expect(messages[0]).toBe("hello");
  socket.close();
});

test("no object storage, and no maintenance, in ROCK's words", async () => {
  for (const account of ["legacy", "primary"])
    expect(await rock("GET", `/get_token?account=${account}`)).toEqual({
      ...{ status: "Success", message: null, error: null, result: null },
    });
  const made = await rock("POST", "/ops/tasksets", { spec: { taskTypes: ["image_cleanup"] } });
  expect(made).toMatchObject({
    ...{ status: "Success", message: "ok" },
    result: {
      metadata: { tasksetId: "" },
      spec: { taskTypes: ["image_cleanup"], targetWorkers: null },
      status: {
        phase: "Rejected",
        active: 0,
        conditions: [{ type: "Rejected", rejectedTaskTypes: ["image_cleanup"] }],
      },
    },
  });
  expect((await rock("POST", "/ops/tasksets", {})).result.status.phase).toBe("Rejected");
  expect((await rock("GET", "/ops/tasksets/x")).result).toMatchObject({
    ...{ metadata: { tasksetId: "x" }, status: { phase: "NotFound" } },
  });
});

test("E2B's control plane: make, find, list by metadata, delete", async () => {
  const body = { templateID: "host", timeout: 90, metadata: { "ap-sandbox-id": "mine", job: "a b" } };
  const made = await api.call("POST", "/sandboxes", { ...body, secure: true, allow_internet_access: true });
  expect([made.status, made.json]).toEqual([
    201,
    { sandboxID: "mine", envdVersion: "0.1.0", clientID: "rock", templateID: "host" },
  ]);
  const { json: info } = await api.call("GET", "/sandboxes/mine");
  expect(info).toMatchObject({
    ...{ sandboxID: "mine", state: "running", clientID: "rock", templateID: "host", envdVersion: "0.1.0" },
    metadata: { "ap-sandbox-id": "mine", job: "a b", "e2b.agents.kruise.io/sandbox-ip": "127.0.0.1" },
  });
  expect(Date.parse(info.endAt) - Date.parse(info.startedAt)).toBeWithin(119_000, 123_000); // whole minutes, never fewer
  expect([info.cpuCount >= 1, info.memoryMB > 0, info.diskSizeMB > 0]).toEqual([true, true, true]);
  const list = async (metadata: string) => (await api.call("GET", `/v2/sandboxes?metadata=${metadata}`)).json;
  for (const metadata of ["job%3Da%2Bb", "job%3Da%2520b", "job:a%2520b,ap-sandbox-id:mine"])
    expect([metadata, await list(metadata)]).toEqual([metadata, [info]]);
  expect(await list("job%3Dother")).toEqual([]);
  for (const metadata of ["", "job", "job%3D", "job%3Da%26job%3Da", "job%3D%25zz"])
    expect([metadata, (await list(metadata)).code]).toEqual([metadata, 400]);
  for (const wrong of [{ templateID: " " }, { timeout: 0 }, { timeout: "9" }, { more: 1 }, { envVars: { A: "b" } }])
    expect((await api.call("POST", "/sandboxes", { ...body, ...wrong })).json).toMatchObject({ code: 400 });
  const missing = await api.call("POST", "/sandboxes", { ...body, templateID: "nonesuch" });
  expect([missing.status, missing.json.code]).toEqual([400, 400]);
  expect((await api.call("DELETE", "/sandboxes/mine")).status).toBe(204);
  for (const method of ["GET", "DELETE"])
    expect((await api.call(method, "/sandboxes/mine")).json).toEqual({ code: 404, message: "Sandbox mine not found" });
  expect((await fetch(`${api.url}/sandboxes`, { method: "POST" })).status).toBe(401);
});

test("EnvHub: register, get, list, delete, and still there afterwards", async () => {
  const hub = (name: string, body: unknown) => api.call("POST", `/env/${name}`, body);
  const spec = { env_name: "swe", image: "python:3.11", owner: "me", tags: ["code", "py"], extra_spec: { a: 1 } };
  const { json: first } = await hub("register", spec);
  expect(first).toMatchObject({ ...spec, description: "" });
  expect(first.create_at).toBe(first.update_at);
  await Bun.sleep(2);
  const { json: second } = await hub("register", { ...spec, image: "host" });
  expect([second.image, second.create_at, second.update_at > first.update_at]).toEqual(["host", first.create_at, true]);
  await hub("register", { env_name: "other", image: "host" });
  expect((await hub("get", { env_name: "swe" })).json).toEqual(second);
  const listed = async (filter: object) =>
    (await hub("list", filter)).json.envs.map(({ env_name }: { env_name: string }) => env_name);
  expect(await listed({})).toEqual(["swe", "other"]);
  expect(await listed({ owner: "me" })).toEqual(["swe"]);
  expect(await listed({ tags: ["py", "none"] })).toEqual(["swe"]);
  expect(await listed({ owner: "me", tags: ["none"] })).toEqual([]);
  const file = join(api.folder, "envhub.json");
  expect(new EnvHub(file).get("swe")).toEqual(second);
  expect([(await hub("delete", { env_name: "swe" })).json, JSON.parse(readFileSync(file, "utf8")).length]).toEqual([
    true,
    1,
  ]);
  for (const name of ["get", "delete"]) {
    const { status, json } = await hub(name, { env_name: "swe" });
    expect([status, json.detail]).toEqual([404, expect.stringContaining("Environment swe not found")]);
  }
  expect((await hub("register", { env_name: "x" })).status).toBe(422);
  expect((await api.call("GET", "/health")).json).toEqual({ status: "ok" });
  expect((await fetch(`${api.url}/env/list`, { method: "POST", body: "{}" })).status).toBe(401);
});
