/** From outside to a port of a sandbox through the service: HTTP, WebSocket, TCP; and what the service tells of connections. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Json, openApi, type TestApi, TOKEN } from "./api-support.ts";
import { openSink } from "./network-support.ts";
import { compileProbe, until } from "./support.ts";

const BOX = "/v1/sandboxes/box";
const ROCK = "/apis/envs/sandbox/v1/sandboxes/box";

let api: TestApi;
beforeAll(async () => {
  api = await openApi();
  await api.call("POST", "/v1/sandboxes", { id: "box", memoryMb: 64, diskMb: 16 });
  await api.call("PUT", `${BOX}/files?path=/bin-listener&mode=755`, await compileProbe("listener"));
  for (const [mode, port] of [
    ["http", 8080],
    ["echo", 9001],
    ["websocket", 9002],
  ]) {
    const { json } = await api.call("POST", `${BOX}/exec`, { command: `/bin-listener ${mode} ${port}` });
    expect(json.exitCode).toBe(0);
  }
});
afterAll(() => api?.[Symbol.asyncDispose]());

function request(path: string, init: RequestInit = {}): Promise<Response> {
  return fetch(api.url + path, { ...init, headers: { "X-Key": TOKEN, ...(init.headers as Record<string, string>) } });
}

/** Messages of a WebSocket; `ended` resolves with the code it was closed with. */
async function openSocket(path: string, headers: Record<string, string> = { "X-Key": TOKEN }) {
  const socket = new WebSocket(api.url.replace("http", "ws") + path, { headers } as unknown as string[]);
  socket.binaryType = "arraybuffer";
  const messages: (string | Uint8Array)[] = [];
  const { promise: ended, resolve } = Promise.withResolvers<number>();
  const { promise: opened, resolve: open } = Promise.withResolvers<boolean>();
  socket.onmessage = ({ data }) => messages.push(typeof data === "string" ? data : new Uint8Array(data as ArrayBuffer));
  socket.onopen = () => open(true);
  socket.onerror = () => {};
  socket.onclose = ({ code }) => {
    open(false);
    resolve(code);
  };
  return { socket, messages, ended, isOpen: await opened };
}

test("a request reaches the port without the service's credentials", async () => {
  const response = await request(`${BOX}/ports/8080/a%20b/c?d=e`, {
    method: "POST",
    body: "the body",
    headers: { Cookie: "mine=1", Referer: "http://127.0.0.1/", "X-Other": "kept" },
  });
  const seen = await response.text();
  expect(seen).toStartWith("POST /a%20b/c?d=e HTTP/1.1\r\n");
  expect(seen).toContain("Host: 127.0.0.1:8080\r\n");
  expect(seen.toLowerCase()).toContain("x-other: kept");
  expect(seen).toContain("the body");
  for (const kept of [TOKEN, "mine=1", "eferer"]) expect(seen).not.toContain(kept);
});

test("what answers cannot act as the service in a browser", async () => {
  const { headers } = await request(`${BOX}/ports/8080/`);
  expect(headers.get("etag")).toBe('"one"');
  for (const name of ["set-cookie", "service-worker-allowed", "access-control-allow-origin", "clear-site-data"])
    expect([name, headers.get(name)]).toEqual([name, null]);
  expect(headers.get("content-security-policy")).toStartWith("sandbox; default-src 'none'");
  expect(headers.get("x-content-type-options")).toBe("nosniff");
});

test("an answer leads to its own port or nowhere: clients follow with the token", async () => {
  const follow = async (path: string) => {
    const { status, headers } = await request(path, { redirect: "manual" });
    return [status, headers.get("location")];
  };
  expect(await follow(`${BOX}/ports/8080/near`)).toEqual([302, `${BOX}/ports/8080/there?x=1`]);
  expect(await follow(`${ROCK}/proxy/port/8080/near`)).toEqual([302, `${ROCK}/proxy/port/8080/there?x=1`]);
  expect(await follow(`${BOX}/ports/8080/away`)).toEqual([302, null]);
});

test("the token is needed, and pages of others are not answered", async () => {
  for (const path of [`${BOX}/ports/8080/`, `${BOX}/tcp/9001`, `${BOX}/connections`, `${ROCK}/proxy/`])
    expect((await fetch(api.url + path)).status).toBe(401);
  for (const headers of [{ "Sec-Fetch-Site": "cross-site" }, { Origin: "http://evil.test" }, { Origin: "null" }])
    expect(
      (await request(`${BOX}/ports/8080/`, { headers: headers as unknown as Record<string, string> })).status,
    ).toBe(403);
  expect((await openSocket(`${BOX}/tcp/9001`, {})).isOpen).toBe(false);
  expect((await openSocket(`${BOX}/tcp/9001`, { "X-Key": TOKEN, Origin: "http://evil.test" })).isOpen).toBe(false);
});

test("ports that nothing listens at, and what is no port", async () => {
  const silent = await request(`${BOX}/ports/9999/`);
  expect([silent.status, ((await silent.json()) as Json).error.code]).toEqual([502, "no_answer"]);
  expect((await request(`${BOX}/ports/70000/`)).status).toBe(400);
  expect((await request(`${BOX}/tcp/9001`)).status).toBe(426);
  expect((await request("/v1/sandboxes/none/ports/80/")).status).toBe(404);
  expect([1000, 1006]).toContain(await (await openSocket(`${BOX}/tcp/9999`)).ended);
});

test("TCP through a WebSocket: bytes as they are, both ways, in any amount", async () => {
  const { socket, messages, ended } = await openSocket(`${BOX}/tcp/9001`);
  const sent = new Uint8Array(3_000_000).map((_, i) => (i * 31) % 256);
  for (let at = 0; at < sent.length; at += 100_000) socket.send(sent.subarray(at, at + 100_000));
  const got = () => Buffer.concat(messages as Uint8Array[]);
  await until("all bytes", 20_000, () => got().length === sent.length);
  expect(Buffer.compare(got(), sent)).toBe(0);
  socket.close();
  await ended;
});

test("a WebSocket reaches a WebSocket", async () => {
  for (const path of [
    `${BOX}/ports/9002/chat`,
    `${ROCK}/proxy/port/9002/ws/chat`,
    `${ROCK}/proxy/ws?rock_target_port=9002`,
  ]) {
    const { socket, messages, ended, isOpen } = await openSocket(path);
    expect([path, isOpen]).toEqual([path, true]);
    socket.send("hello");
    socket.send(new Uint8Array([1, 2, 0, 255]));
    await until("the echo", 5000, () => messages.length === 2);
    expect(messages).toEqual(["hello", new Uint8Array([1, 2, 0, 255])]);
    socket.close(3001);
    expect(await ended).toBe(3001);
  }
  expect((await openSocket(`${BOX}/ports/9999/chat`)).isOpen).toBe(false);
});

test("ROCK's paths: port by path, header or query, once; 8080 otherwise", async () => {
  const line = async (path: string, headers: Record<string, string> = {}) =>
    (await (await request(ROCK + path, { headers })).text()).split("\r\n")[0];
  expect(await line("/proxy")).toBe("GET / HTTP/1.1");
  expect(await line("/proxy/v1/x?y=1")).toBe("GET /v1/x?y=1 HTTP/1.1");
  expect(await line("/proxy/port/8080/api/users")).toBe("GET /api/users HTTP/1.1");
  expect(await line("/proxy/items?rock_target_port=8080&limit=10")).toBe("GET /items?limit=10 HTTP/1.1");
  expect(await line("/proxy/items", { "X-ROCK-Target-Port": "8080" })).toBe("GET /items HTTP/1.1");
  for (const path of ["/proxy/port/80/", "/proxy/port/8080/?rock_target_port=8080", "/proxy?rock_target_port=x"])
    expect([path, (await request(ROCK + path)).status]).toEqual([path, 400]);
  const failed = (await (await request(`${ROCK}/proxy/port/9999/`)).json()) as Json;
  expect(failed).toMatchObject({ status: "Failed", message: "http proxy failed" });
  const { socket, messages } = await openSocket(`${ROCK}/portforward?port=9001`);
  socket.send(new TextEncoder().encode("over ROCK"));
  await until("the echo", 5000, () => Buffer.concat(messages as Uint8Array[]).toString() === "over ROCK");
  socket.close();
});

test("a network is given at the start or later; connections are told of, and counted in statistics", async () => {
  await using sink = await openSink("127.0.0.5", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  const network = { mode: "allowlist", allow: [`127.0.0.5:${sink.port}`] };
  expect((await api.call("GET", BOX)).json.network).toEqual({ mode: "none", allow: [] });
  const ask = async (id: string, host: string) =>
    (
      await api.call("POST", `/v1/sandboxes/${id}/exec`, {
        command: [
          "bash",
          "-c",
          `exec 3<>/dev/tcp/127.0.0.1/3128; printf 'GET http://${host}/ HTTP/1.1\\r\\nHost: ${host}\\r\\n\\r\\n' >&3; head -n1 <&3`,
        ],
      })
    ).json;
  const bad = await api.call("POST", "/v1/sandboxes", { network: { mode: "allowlist", allow: ["no host"] } });
  expect([bad.status, bad.json.error.message]).toEqual([400, expect.stringContaining("neither a host nor an address")]);
  const { status } = await api.call("POST", "/v1/sandboxes", { id: "web", memoryMb: 64, diskMb: 16, network });
  expect(status).toBe(201);
  expect((await ask("web", `127.0.0.5:${sink.port}`)).stdout).toContain("200 OK");
  expect((await ask("web", "169.254.169.254")).stdout).toContain("403");
  const connections = async () => (await api.call("GET", "/v1/sandboxes/web/connections")).json;
  await until("the records", 5000, async () => (await connections()).connections.length === 2);
  const told = await connections();
  expect(told.connections).toContainEqual(
    expect.objectContaining({
      kind: "proxy",
      host: "127.0.0.5",
      port: sink.port,
      address: "127.0.0.5",
      verdict: "allowed",
    }),
  );
  expect(told.connections).toContainEqual(
    expect.objectContaining({ kind: "proxy", host: "169.254.169.254", port: 80, address: null, verdict: "denied" }),
  );
  expect(told.usage).toMatchObject({ connections: 2, denied: 1 });
  const statistics = (await api.call("GET", "/v1/sandboxes/web/statistics")).json;
  expect(statistics.bytesOut).toBeGreaterThan(50);
  const fork = (await api.call("POST", "/v1/sandboxes/web/fork", { id: "web2" })).json;
  expect(fork.sandbox.network.mode).toBe("allowlist");
  await api.call("POST", "/v1/sandboxes/web/snapshots", { name: "kept" });
  await api.call("POST", "/v1/sandboxes", { id: "web3", snapshot: "kept" });
  expect((await api.call("GET", "/v1/sandboxes/web3")).json.network.mode).toBe("none");
  expect((await ask("web3", `127.0.0.5:${sink.port}`)).stderr).toContain("refused");
  await api.call("POST", "/v1/sandboxes", { id: "web4", snapshot: "kept", network });
  expect((await ask("web4", `127.0.0.5:${sink.port}`)).stdout).toContain("200 OK");
  expect((await api.call("PUT", "/v1/sandboxes/web/network", { mode: "none" })).json.network.mode).toBe("none");
  expect((await ask("web", `127.0.0.5:${sink.port}`)).stderr).toContain("refused");
  await api.call("POST", "/v1/sandboxes/web/stop");
  await api.call("POST", "/v1/sandboxes/web/restart");
  expect((await ask("web", `127.0.0.5:${sink.port}`)).stderr).toContain("refused");
  expect((await api.call("GET", "/v1/sandboxes/web/connections")).json.connections).toHaveLength(2);
  expect((await ask("web2", `127.0.0.5:${sink.port}`)).stdout).toContain("200 OK");
});
