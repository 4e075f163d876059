/** What a hostile program gets out of a sandbox that may reach something: what is listed, counted, and nothing else. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { ConnectionRecord, NetworkSpec } from "../../src/core/types.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { allowing, clientHello, connectTo, get, openSink, type Sink, say, status } from "./network-support.ts";
import { ENVIRONMENT, LIMITS, openProvider, outcome, output, type TestProvider, until } from "./support.ts";

/** Listed by most tests, and never listed. All are this machine's loopback device. */
const LISTED = "127.0.0.5";
const SECRET = "127.0.0.6";
const ANSWER = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

const names = new Map<string, string[]>();
let looked: string[] = [];
let provider: TestProvider;
let server: Sink;
let secret: Sink;
/** Like `server`, and leaves connections open. */
let patient: Sink;

beforeAll(async () => {
  server = await openSink(LISTED, ANSWER);
  secret = await openSink(SECRET, ANSWER, { port: server.port });
  patient = await openSink(LISTED, ANSWER, { hold: true });
  provider = await openProvider({
    network: {
      resolve: async (host) => {
        looked.push(host);
        const found = names.get(host);
        if (found === undefined) throw new Error("no such name");
        return found;
      },
      times: { headMs: 2000, helloMs: 2000, idleMs: 20_000 },
    },
  });
});
afterAll(async () => {
  await provider?.close();
  await server[Symbol.asyncDispose]();
  await secret[Symbol.asyncDispose]();
  await patient[Symbol.asyncDispose]();
});

async function open(network: NetworkSpec): Promise<NativeSandbox> {
  looked = [];
  return provider.create({ ...ENVIRONMENT, network });
}
/** The record that follows `count` others. It is made when both ends are closed, which may be after the answer was read. */
async function recordAfter(sandbox: NativeSandbox, count: number): Promise<ConnectionRecord | undefined> {
  await until(`record ${count}`, 5000, () => sandbox.network.connections.length > count);
  return sandbox.network.connections[count];
}
/** `name` at the listed server, and the rules for it. */
function named(name: string, ...addresses: string[]): NetworkSpec {
  names.set(name, addresses.length > 0 ? addresses : [LISTED]);
  return allowing(...[server, patient].flatMap(({ port }) => [`${name}:${port}`, `${LISTED}:${port}`]));
}

test("without a network nothing listens; with one, programs are told of the proxy", async () => {
  await using none = await provider.create(ENVIRONMENT);
  expect(await output(none, "env | grep -ic proxy; cat /proc/net/tcp /proc/net/udp | grep -vc sl")).toBe("0\n0\n");
  await using sandbox = await open(named("a.test"));
  expect(await output(sandbox, 'echo "$HTTPS_PROXY $http_proxy $NO_PROXY"')).toBe(
    "http://127.0.0.1:3128 http://127.0.0.1:3128 localhost,127.0.0.1,::1\n",
  );
  expect(await say(sandbox, get(`http://a.test:${server.port}/x?y`))).toEndWith("ok");
  expect(server.received().toString()).toContain(`GET /x?y HTTP/1.1\r\nHost: a.test:${server.port}\r\n`);
});

test("private, link-local, loopback, metadata and disguised addresses are denied, also where every public host is allowed", async () => {
  for (const [name, address] of [
    ["internal.test", "10.0.0.1"],
    ["metadata.test", "169.254.169.254"],
    ["six.test", "::1"],
    ["local.test", SECRET],
  ] as const)
    names.set(name, [address]);
  const port = server.port;
  const hosts = [
    ...["127.0.0.1", SECRET, "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"],
    ...[
      "168.63.129.16",
      "100.100.100.200",
      "[::1]",
      "[::]",
      "[::ffff:127.0.0.6]",
      "[::ffff:7f00:6]",
      "[64:ff9b::7f00:6]",
    ],
    ...["[2002:7f00:6::]", "[fe80::1]", "[fd00:ec2::254]", "[::127.0.0.6]", "[2001:0:7f00:6::1]", "224.0.0.1"],
    ...["internal.test", "metadata.test", "six.test", "local.test"],
  ];
  const odd = ["2130706433", "0x7f000006", "0177.0.0.6", "127.6", "127.000.000.006", "127.0.0.6.", "%31"];
  await using sandbox = await open({ mode: "public", allow: [`${LISTED}:${port}`] });
  for (const host of hosts) {
    expect([host, status(await say(sandbox, get(`http://${host}:${port}/`)))]).toEqual([host, 403]);
    expect([host, status(await say(sandbox, connectTo(`${host}:${port}`)))]).toEqual([host, 403]);
  }
  for (const host of odd)
    expect([host, status(await say(sandbox, get(`http://${host}:${port}/`)))]).toEqual([host, 400]);
  expect(secret.connections()).toBe(0);
  const { connections } = sandbox.network;
  expect(
    connections.every(({ verdict, address, bytesOut }) => verdict === "denied" && address === null && bytesOut === 0),
  ).toBe(true);
  expect(sandbox.network.usage.denied).toBe(2 * hosts.length + odd.length);
}, 60_000);

test("names that are not listed are not even looked up", async () => {
  await using sandbox = await open(named("listed.test"));
  names.set("sub.listed.test", [LISTED]);
  for (const host of ["other.test", "sub.listed.test", "listed.test.evil.test", "secret-as-a-name.evil.test"])
    expect(await say(sandbox, get(`http://${host}:${server.port}/`))).toContain("the host is not listed");
  expect(await say(sandbox, get("http://listed.test:1/"))).toContain("port 1 of the host is not listed");
  expect(await say(sandbox, get(`http://${SECRET}:${server.port}/`))).toContain("the address is not listed");
  expect(looked).toEqual([]);
});

test("DNS rebinding: the address that was judged is the one connected to", async () => {
  await using sandbox = await open(named("rebind.test"));
  expect(await say(sandbox, get(`http://rebind.test:${server.port}/`))).toEndWith("ok");
  names.set("rebind.test", [SECRET]);
  expect(await say(sandbox, get(`http://rebind.test:${server.port}/`))).toContain(
    `the address is loopback and not listed (${SECRET})`,
  );
  names.set("rebind.test", [SECRET, LISTED]);
  expect(await say(sandbox, get(`http://rebind.test:${server.port}/`))).toEndWith("ok");
  expect(looked).toEqual(["rebind.test", "rebind.test", "rebind.test"]); // once for each, so there is nothing to rebind
  await until("the records", 5000, () => sandbox.network.connections.length === 3);
  expect(sandbox.network.connections.map(({ address, verdict }) => [address, verdict])).toEqual([
    [LISTED, "allowed"],
    [null, "denied"],
    [LISTED, "allowed"],
  ]);
  expect(secret.connections()).toBe(0);
});

describe("CONNECT", () => {
  test("leads to TLS with the same server name, and to nothing else", async () => {
    await using sandbox = await open(named("tls.test"));
    const target = connectTo(`tls.test:${server.port}`);
    const before = server.received().length;
    const refused = async (hello: Buffer | string, reason: string, verdict = "denied") => {
      const records = sandbox.network.connections.length;
      await say(sandbox, Buffer.concat([Buffer.from(target), Buffer.from(hello)]), 5);
      expect(await recordAfter(sandbox, records)).toMatchObject({ verdict, reason, bytesOut: 0 });
    };
    await refused(await clientHello("other.test"), "its TLS greeting names another server");
    await refused(await clientHello("tls.test.evil.test"), "its TLS greeting names another server");
    await refused(await clientHello(undefined), "its TLS greeting names no server");
    await refused("SSH-2.0-OpenSSH_9.2\r\n", "it is not TLS");
    await refused(get(`http://tls.test:${server.port}/`), "it is not TLS");
    await refused("", "the TLS greeting took more than 2 s", "failed");
    expect(server.received().length).toBe(before); // connected to, as it is listed, and not told a byte
    const hello = await clientHello("tls.test");
    expect(await say(sandbox, Buffer.concat([Buffer.from(target), hello]))).toEndWith(ANSWER);
    expect(server.received().subarray(before)).toEqual(hello);
  });

  test("a real client gets through", async () => {
    const folder = join(provider.stateDir, "tls");
    const made = Bun.spawnSync(
      [
        "sh",
        "-c",
        `mkdir ${folder} && cd ${folder} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=real.test -keyout key -out cert`,
      ],
      { stderr: "ignore" },
    );
    await using sandbox = await open(allowing());
    if (made.exitCode !== 0 || (await outcome(sandbox, "command -v curl"))[0] !== 0)
      return console.log("skipped: TLS with a real client: openssl and curl are needed");
    const tls = { key: Bun.file(join(folder, "key")), cert: Bun.file(join(folder, "cert")) };
    const https = Bun.serve({
      hostname: LISTED,
      port: 0,
      tls,
      fetch: async (request) => new Response(`${(await request.bytes()).length} bytes`),
    });
    names.set("real.test", [LISTED]);
    await sandbox.network.change(allowing(`real.test:${https.port}`, `${LISTED}:${https.port}`));
    const command = `head -c 300000 /dev/zero | http_proxy= https_proxy=http://127.0.0.1:3128 curl -sk --data-binary @- https://real.test:${https.port}/`;
    expect(await output(sandbox, command)).toBe("300000 bytes");
    expect(await recordAfter(sandbox, 0)).toMatchObject({
      host: "real.test",
      verdict: "allowed",
      address: LISTED,
    });
    expect(sandbox.network.usage.bytesOut).toBeGreaterThan(300_000);
    await https.stop(true);
  });
});

test("plain requests: one per connection, to the host they name", async () => {
  await using sandbox = await open(named("plain.test"));
  const url = `http://plain.test:${server.port}/`;
  const before = server.received().length;
  const host = `Host: plain.test:${server.port}\r\n`;
  for (const [request, code] of [
    [`GET ${url} HTTP/1.1\r\nHost: other.test\r\n\r\n`, 403],
    [`GET ${url} HTTP/1.1\r\n\r\n`, 403],
    [`GET ${url} HTTP/1.1\r\n${host}${host}\r\n`, 403],
    [`GET / HTTP/1.1\r\n${host}\r\n`, 400],
    [`GET http://plain.test:${server.port}@127.0.0.6:${server.port}/ HTTP/1.1\r\n${host}\r\n`, 400],
    [`GET https://plain.test:${server.port}/ HTTP/1.1\r\n${host}\r\n`, 400],
    [`POST ${url} HTTP/1.1\r\n${host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    [`POST ${url} HTTP/1.1\r\n${host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd`, 400],
    [`GET ${url} HTTP/1.1\r\n${host}A: b\n\tc\r\n\r\n`, 400],
    [`GET ${url} HTTP/1.1\r\n${host}X : y\r\n\r\n`, 400],
  ] as const)
    expect([request, status(await say(sandbox, request, 2))]).toEqual([request, code]);
  expect(server.received().length).toBe(before);
  const smuggled = `GET /hidden HTTP/1.1\r\nHost: other.test\r\n\r\n`;
  await say(
    sandbox,
    `POST ${url} HTTP/1.1\r\n${host}Content-Length: 3\r\nProxy-Authorization: x\r\n\r\nabc${smuggled}`,
    2,
  );
  await say(
    sandbox,
    `POST ${url} HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n${smuggled}`,
    2,
  );
  const seen = server.received().subarray(before).toString();
  expect(seen.match(/POST \//g)?.length).toBe(2);
  expect(seen).not.toContain("hidden");
  expect(seen).not.toContain("Proxy-Authorization");
});

test("what leaves is counted, told of, and limited", async () => {
  await using sandbox = await open({ ...named("upload.test"), limits: { bytesOut: 400_000, totalConnections: 6 } });
  const before = patient.received().length;
  const upload = (bytes: number) =>
    output(
      sandbox,
      `exec 3<>/dev/tcp/127.0.0.1/3128; (printf 'POST http://upload.test:${patient.port}/ HTTP/1.1\\r\\nHost: upload.test:${patient.port}\\r\\nContent-Length: ${bytes}\\r\\n\\r\\n'; head -c ${bytes} /dev/zero; sleep 0.3) >&3 2>/dev/null; exec 3>&-`,
    );
  await upload(300_000);
  const record = await recordAfter(sandbox, 0);
  expect(record).toMatchObject({
    kind: "proxy",
    host: "upload.test",
    port: patient.port,
    address: LISTED,
    verdict: "allowed",
  });
  expect(record?.bytesOut).toBeGreaterThan(300_000);
  expect(sandbox.network.usage.bytesOut).toBe(record?.bytesOut ?? 0);
  await upload(5_000_000);
  expect(await recordAfter(sandbox, 1)).toMatchObject({
    verdict: "denied",
    reason: "more than 400000 bytes left the sandbox",
  });
  expect(patient.received().length - before).toBeLessThan(600_000);
  await say(sandbox, get(`http://upload.test:${patient.port}/`), 1);
  expect(await recordAfter(sandbox, 2)).toMatchObject({ verdict: "denied" });
  for (let i = 0; i < 4; i++) await say(sandbox, "x\r\n\r\n", 2);
  expect(await say(sandbox, get(`http://upload.test:${patient.port}/`), 1)).toContain("more than 6 connections in all");
});

test("neighbours: no way to another one's proxy or sockets", async () => {
  await using rich = await open(named("rich.test"));
  await using poor = await provider.create(ENVIRONMENT);
  await using other = await provider.create({ ...ENVIRONMENT, network: allowing("unknown.test") });
  expect(await say(poor, get(`http://rich.test:${server.port}/`), 1)).toContain("Connection refused");
  expect(await say(other, get(`http://rich.test:${server.port}/`), 1)).toContain("the host is not listed");
  expect(await output(other, "find / -xdev -type s 2>/dev/null | wc -l; grep -c / /proc/net/unix")).toBe("0\n0\n");
  expect(await say(rich, get(`http://rich.test:${server.port}/`))).toEndWith("ok");
});

test("floods and slow clients stay within their limits, and neighbours do not notice", async () => {
  await using loud = await open({ ...named("flood.test"), limits: { connections: 4 } });
  await using quiet = await open(named("quiet.test"));
  // Six of a hundred are read, as any four may be the ones that get through.
  const flood =
    'for i in $(seq 10 109); do eval "exec $i<>/dev/tcp/127.0.0.1/3128" || break; done; for i in $(seq 50 10 100); do timeout 5 cat <&$i; done';
  expect(await output(loud, flood)).toContain("more than 4 connections at once");
  expect(await say(quiet, get(`http://quiet.test:${server.port}/`))).toEndWith("ok");
  await output(loud, 'for i in $(seq 10 109); do eval "exec $i>&-"; done');
  await until("room again", 5000, async () =>
    (await say(loud, get(`http://flood.test:${server.port}/`))).endsWith("ok"),
  );
  const began = performance.now();
  await output(
    loud,
    "(exec 3<>/dev/tcp/127.0.0.1/3128; trap '' PIPE; for i in $(seq 60); do printf G >&3 || break; sleep 0.1; done) 2>/dev/null",
  );
  await until("the record", 5000, () => loud.network.connections.at(-1)?.reason === "the request took more than 2 s");
  expect(performance.now() - began).toBeLessThan(20_000);
  expect(loud.network.usage.connections).toBeLessThan(200);
});

test("a network that is changed is changed at once, open connections included; snapshots carry what is so now", async () => {
  await using sandbox = await open(named("live.test"));
  const hello = await clientHello("live.test");
  const target = connectTo(`live.test:${patient.port}`);
  const waiting = say(sandbox, Buffer.concat([Buffer.from(target), hello]), 8);
  await until("the tunnel", 5000, () => sandbox.network.usage.bytesIn > 0);
  const began = performance.now();
  await sandbox.network.change({ mode: "none", allow: [] });
  expect(await waiting).toStartWith("HTTP/1.1 200");
  expect(performance.now() - began).toBeLessThan(4000);
  expect(await recordAfter(sandbox, 0)).toMatchObject({ reason: "the network of the sandbox changed" });
  expect(await say(sandbox, target, 1)).toContain("Connection refused");
  await using snapshot = await sandbox.snapshot();
  await using fork = await provider.fork(snapshot);
  expect(fork.network.spec.mode).toBe("none");
  await sandbox.network.change(named("live.test"));
  expect(await say(sandbox, get(`http://live.test:${server.port}/`))).toEndWith("ok");
  await using later = await sandbox.snapshot();
  await using second = await provider.fork(later);
  for (const each of [sandbox, second])
    expect(await say(each, get(`http://live.test:${server.port}/`))).toEndWith("ok");
  await expect(sandbox.network.change(allowing("not a host"))).rejects.toThrow("it is neither a host nor an address");
  expect(sandbox.network.spec.allow).toContain(`live.test:${server.port}`);
});

test("an endpoint leads to its handler and nowhere else", async () => {
  await using sandbox = await provider.create(ENVIRONMENT);
  await using neighbour = await provider.create(ENVIRONMENT);
  const fetch = async (request: Request) =>
    new URL(request.url).pathname === "/fail"
      ? Promise.reject(new Error("host secret"))
      : new Response(`${request.method} ${new URL(request.url).pathname} ${await request.text()}`);
  const endpoint = await sandbox.network.serve(8000, { fetch });
  const post = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
  expect(await say(sandbox, post, 3, 8000)).toEndWith("POST /v1/chat/completions hi");
  expect(await say(sandbox, get(`http://${LISTED}:${server.port}/`, "Connection: close\r\n"), 3, 8000)).toContain(
    "GET / ",
  );
  const failed = await say(sandbox, "GET /fail HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 3, 8000);
  expect([status(failed), failed.includes("secret")]).toEqual([500, false]);
  expect(await say(neighbour, post, 1, 8000)).toContain("Connection refused");
  await until("the records", 5000, () => sandbox.network.connections.length === 3);
  expect(sandbox.network.connections.at(0)).toMatchObject({ kind: "endpoint", port: 8000, verdict: "allowed" });
  await expect(sandbox.network.serve(8000, { fetch })).rejects.toThrow("is in use");
  await using snapshot = await sandbox.snapshot();
  expect(snapshot.lostProcesses).toBe(0);
  expect(await say(sandbox, post, 3, 8000)).toEndWith("hi");
  await endpoint[Symbol.asyncDispose]();
  expect(await say(sandbox, post, 1, 8000)).toContain("Connection refused");
  await using socket = await sandbox.network.serve(8000, { host: LISTED, port: server.port });
  expect(socket).toBeDefined();
  expect(await say(sandbox, post, 3, 8000)).toContain("ok");
  await sandbox.run("(exec -a taken bash -c 'exec 9<>/dev/null; sleep 30') & ", LIMITS);
});

test("nothing is left: sockets, descriptors, waiting connections", async () => {
  const folder = readdirSync(provider.stateDir).find((name) => name.startsWith("ale-")) ?? "";
  const descriptors = () => readdirSync("/proc/self/fd").length;
  const once = async () => {
    const sandbox = await open(named("left.test"));
    await sandbox.network.serve(8000, { fetch: () => new Response("x") });
    await sandbox.network.forward(9000);
    expect(await say(sandbox, get(`http://left.test:${server.port}/`))).toEndWith("ok");
    void sandbox.run("exec 3<>/dev/tcp/127.0.0.1/3128; sleep 30", LIMITS).catch(() => {});
    await Bun.sleep(20);
    await sandbox.destroy();
  };
  await once();
  const before = descriptors();
  for (let i = 0; i < 10; i++) await once();
  await until("descriptors to be closed", 5000, () => descriptors() <= before + 2);
  expect(readdirSync(join(provider.stateDir, folder, "net"))).toEqual([]);
});
