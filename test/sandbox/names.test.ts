/** Names inside a sandbox: those it may reach have an address there that leads to them; of others nobody outside hears. */

import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { join } from "node:path";
import type { NetworkSpec } from "../../src/core/types.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { allowing, clientHello, openSink, type Sink, say, status } from "./network-support.ts";
import { ENVIRONMENT, file, openProvider, outcome, output, type TestProvider, until } from "./support.ts";

const LISTED = "127.0.0.5";
const SECRET = "127.0.0.6";
const ANSWER = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/** Programs that know of no proxy. */
const PLAIN = "unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY;";
const [A, TXT, AAAA, HTTPS, ANY, AXFR] = [1, 16, 28, 65, 255, 252];

const names = new Map<string, string[]>();
let looked: string[] = [];
let provider: TestProvider;
let server: Sink;
let secret: Sink;

beforeAll(async () => {
  server = await openSink(LISTED, ANSWER);
  secret = await openSink(SECRET, ANSWER, { port: server.port });
  const resolve = async (host: string) => {
    looked.push(host);
    const found = names.get(host) ?? (host.endsWith(".deep.test") ? [LISTED] : undefined);
    if (found === undefined) throw Object.assign(new Error("it does not exist"), { code: "ENOTFOUND" });
    return found;
  };
  provider = await openProvider({ network: { resolve, times: { headMs: 2000, helloMs: 2000 } } });
});
afterAll(async () => {
  await provider?.close();
  await server[Symbol.asyncDispose]();
  await secret[Symbol.asyncDispose]();
});
beforeEach(() => {
  names.clear();
  looked = [];
});

/** `name` at the listed server, and the rules for it. */
function named(name: string): NetworkSpec {
  names.set(name, [LISTED]);
  return allowing(`${name}:${server.port}`, `${LISTED}:${server.port}`);
}

/** A question as programs send it. */
function question(name: string | readonly Buffer[], type = A): Buffer {
  const labels = typeof name === "string" ? name.split(".").map((label) => Buffer.from(label)) : name;
  const head = Buffer.from([0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
  const parts = labels.flatMap((label) => [Buffer.from([label.length]), label]);
  return Buffer.concat([head, ...parts, Buffer.from([0, type >> 8, type & 255, 0, 1])]);
}

let counter = 0;

/** What the resolver says to a message: its code, and the address if there is one. */
async function ask(sandbox: NativeSandbox, message: Buffer, way: "udp" | "tcp" = "udp"): Promise<string> {
  const name = `asked-${++counter}`;
  const length = Buffer.from([message.length >> 8, message.length & 255]);
  await sandbox.upload("/tmp", [file(name, way === "tcp" ? Buffer.concat([length, message]) : message)]);
  const read = "timeout 2 dd bs=4096 count=1 status=none <&3 | base64 -w0";
  const said = await output(sandbox, `exec 3<>/dev/${way}/127.0.0.1/53; cat /tmp/${name} >&3; ${read}; exec 3>&-`);
  const answer = Buffer.from(said, "base64").subarray(way === "tcp" ? 2 : 0);
  if (answer.length === 0) return "silence";
  expect(answer.readUInt16BE(0)).toBe(message.readUInt16BE(0));
  const code = ["ok", "malformed", "failure", "no such name", "not implemented", "refused"][(answer[3] ?? 0) & 15];
  return answer.readUInt16BE(6) === 1 ? `${code} ${[...answer.subarray(-4)].join(".")}` : `${code}`;
}

const lastRecord = (sandbox: NativeSandbox, kind: string) =>
  sandbox.network.connections.findLast((record) => record.kind === kind);

test("programs that know nothing of a proxy find what is listed, by a name that leads there", async () => {
  await using sandbox = await provider.create({ ...ENVIRONMENT, network: named("a.test") });
  expect(await output(sandbox, "cat /etc/resolv.conf; getent hosts a.test")).toMatch(
    /^nameserver 127\.0\.0\.1\n127\.64\.0\.1 +a\.test\n$/,
  );
  // Programs that ask for IPv4 alone, if there is any (AI_ADDRCONFIG), find it, too.
  expect(await output(sandbox, "getent ahostsv4 a.test | head -n1")).toMatch(/^127\.64\.0\.1 /);
  expect(await ask(sandbox, question("A.Test"), "tcp")).toBe("ok 127.64.0.1");
  const request = `GET /x HTTP/1.1\\r\\nHost: a.test:${server.port}\\r\\n\\r\\n`;
  const raw = `exec 3<>/dev/tcp/a.test/${server.port}; printf '${request}' >&3; timeout 5 cat <&3; exec 3>&-`;
  expect(await output(sandbox, PLAIN + raw)).toEndWith("ok");
  expect(server.received().toString()).toContain(`GET /x HTTP/1.1\r\nHost: a.test:${server.port}\r\n`);
  expect(lastRecord(sandbox, "proxy")).toMatchObject({ host: "a.test", address: LISTED, verdict: "allowed" });
  expect(lastRecord(sandbox, "dns")).toMatchObject({ host: "a.test", port: 53, verdict: "allowed" });
  expect(sandbox.network.usage.connections).toBe(1); // questions are none
  if ((await outcome(sandbox, "command -v python3"))[0] !== 0) return console.log("skipped: Python is not installed");
  const python = `import urllib.request as r; print(r.urlopen("http://a.test:${server.port}/py").read())`;
  expect(await output(sandbox, `${PLAIN} python3 -c '${python}'`)).toBe("b'ok'\n");
});

test("TLS through the address of a name: a real client, and one that asks for another server", async () => {
  const folder = join(provider.stateDir, "tls");
  const make = `mkdir ${folder} && cd ${folder} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=real.test -keyout key -out cert`;
  const made = Bun.spawnSync(["sh", "-c", make], { stderr: "ignore" });
  await using sandbox = await provider.create({ ...ENVIRONMENT, network: named("tls.test") });
  const before = server.received().length;
  expect(await ask(sandbox, question("tls.test"))).toBe("ok 127.64.0.1");
  const send = async (hello: Buffer | string, reason: string) => {
    await sandbox.upload("/tmp", [file("hello", hello)]);
    await output(
      sandbox,
      `exec 3<>/dev/tcp/127.64.0.1/${server.port}; cat /tmp/hello >&3; timeout 5 cat <&3; exec 3>&-`,
    );
    expect(lastRecord(sandbox, "proxy")).toMatchObject({ host: "tls.test", verdict: "denied", reason, bytesOut: 0 });
  };
  looked = [];
  await send(await clientHello("other.test"), "its TLS greeting names another server");
  await send(await clientHello(undefined), "its TLS greeting names no server");
  await send(
    `GET / HTTP/1.1\r\nHost: other.test:${server.port}\r\n\r\n`,
    "the Host header is not the host that was asked for",
  );
  await send(
    `CONNECT tls.test:${server.port} HTTP/1.1\r\nHost: tls.test\r\n\r\n`,
    "this stands for one host: it takes requests for paths",
  );
  await send("SSH-2.0-OpenSSH_9.2\r\n\r\n", "it is no HTTP/1.1 request");
  expect([server.received().length, looked]).toEqual([before, []]); // not even connected to
  if (made.exitCode !== 0 || (await outcome(sandbox, "command -v curl"))[0] !== 0)
    return console.log("skipped: TLS with a real client: openssl and curl are needed");
  const tls = { key: Bun.file(join(folder, "key")), cert: Bun.file(join(folder, "cert")) };
  const fetch = async (request: Request) => new Response(`${(await request.bytes()).length} bytes`);
  const https = Bun.serve({ hostname: LISTED, port: 0, tls, fetch });
  names.set("real.test", [LISTED]);
  await sandbox.network.change(allowing(`real.test:${https.port}`, `${LISTED}:${https.port}`));
  const upload = `head -c 300000 /dev/zero | curl -sk --data-binary @- https://real.test:${https.port}/`;
  expect(await output(sandbox, PLAIN + upload)).toBe("300000 bytes");
  await until("the count", 5000, () => sandbox.network.usage.bytesOut > 300_000);
  await https.stop(true);
});

test("names that are not listed are never asked for outside, whatever they say and however they are written", async () => {
  await using sandbox = await provider.create({ ...ENVIRONMENT, network: named("listed.test") });
  const secretLabels = Array.from({ length: 3 }, () => "s3cr3t".repeat(10)).join(".");
  for (const name of [
    "evil.test",
    "sub.listed.test",
    "listed.test.evil.test",
    `${secretLabels}.evil.test`,
    "1.0.0.127.in-addr.arpa",
  ])
    expect([name, await ask(sandbox, question(name))]).toEqual([name, "no such name"]);
  const bytes = (text: string) => Buffer.from(text, "latin1");
  for (const labels of [
    ["listed.test"],
    ["listed", "test\0"],
    ["li\0sted", "test"],
    ["x", "listed.test"],
    ["líst", "test"],
  ])
    expect([labels, await ask(sandbox, question(labels.map(bytes)))]).toEqual([labels, "no such name"]);
  const record = lastRecord(sandbox, "dns");
  expect(record).toMatchObject({ verdict: "denied", address: null, bytesOut: 0 });
  expect(sandbox.network.connections.map(({ host }) => host)).toContain(`${secretLabels}.evil.test`);
  for (const type of [TXT, ANY, AXFR, 15, 33, 10])
    expect([type, await ask(sandbox, question("listed.test", type))]).toEqual([type, "refused"]);
  expect(await ask(sandbox, question("listed.test", HTTPS))).toBe("ok");
  expect(looked).toEqual([]);
  expect(await ask(sandbox, question("listed.test", AAAA))).toBe("ok");
  expect(looked).toEqual(["listed.test"]);
});

test("messages that are none are refused or ignored, and the resolver goes on", async () => {
  await using sandbox = await provider.create({ ...ENVIRONMENT, network: named("listed.test") });
  const good = question("listed.test");
  const changed = (...changes: [at: number, byte: number][]) => {
    const bytes = Buffer.from(good);
    for (const [at, byte] of changes) bytes[at] = byte;
    return bytes;
  };
  expect(await ask(sandbox, changed([5, 2]))).toBe("malformed"); // two questions
  expect(await ask(sandbox, changed([7, 1]))).toBe("malformed"); // with an answer
  expect(await ask(sandbox, changed([12, 0xc0]))).toBe("malformed"); // a name that points elsewhere
  expect(await ask(sandbox, good.subarray(0, -3))).toBe("malformed");
  expect(await ask(sandbox, changed([2, 0x28]))).toBe("not implemented"); // an update
  expect(await ask(sandbox, changed([good.length - 1, 3]))).toBe("not implemented"); // another class
  expect(await ask(sandbox, changed([2, 0x81]))).toBe("silence"); // an answer
  expect(await ask(sandbox, good.subarray(0, 7))).toBe("silence");
  expect(looked).toEqual([]);
  await output(sandbox, "exec 3<>/dev/tcp/127.0.0.1/53; head -c 100000 /dev/urandom >&3 2>/dev/null; exec 3>&-");
  await until("an answer", 5000, async () => (await ask(sandbox, good)) === "ok 127.64.0.1");
});

test("rebinding: a name that leads to what is private is no name, and one that comes to lead there leads nowhere", async () => {
  await using sandbox = await provider.create({ ...ENVIRONMENT, network: named("rebind.test") });
  expect(await ask(sandbox, question("rebind.test"))).toBe("ok 127.64.0.1");
  const get = `GET / HTTP/1.1\r\nHost: rebind.test:${server.port}\r\n\r\n`;
  const through = async (request: string) => {
    await sandbox.upload("/tmp", [file("request", request)]);
    return output(
      sandbox,
      `exec 3<>/dev/tcp/127.64.0.1/${server.port}; cat /tmp/request >&3; timeout 5 cat <&3; exec 3>&-`,
    );
  };
  expect(await through(get)).toEndWith("ok");
  names.set("rebind.test", [SECRET]);
  expect(await through(get)).toContain(`the address is loopback and not listed (${SECRET})`);
  for (const addresses of [["10.0.0.1"], ["169.254.169.254"], ["::1", SECRET], ["100.64.0.1"], ["fd00::1"]]) {
    const name = `n${addresses.length}${counter}.test`;
    names.set(name, addresses);
    await sandbox.network.change({ mode: "public", allow: [] });
    expect([addresses, await ask(sandbox, question(name))]).toEqual([addresses, "no such name"]);
    expect(lastRecord(sandbox, "dns")?.reason).toContain("and not listed");
  }
  expect(secret.connections()).toBe(0);
});

test("below a listed host and in public: what names can say is limited, and a flood is held up", async () => {
  await using sandbox = await provider.create({
    ...ENVIRONMENT,
    network: allowing("*.deep.test", `${LISTED}:80`, `${LISTED}:443`),
  });
  await using neighbour = await provider.create({ ...ENVIRONMENT, network: named("quiet.test") });
  if ((await outcome(sandbox, "command -v python3"))[0] !== 0) return console.log("skipped: Python is not installed");
  const flood = `
import socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.1", 53))
end = time.time() + 2; i = 0
while time.time() < end:
    labels = [b"%060d" % i] * 3 + [b"deep", b"test"]; i += 1
    s.send(struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l for l in labels) + b"\\0\\0\\1\\0\\1")
print(i)
`;
  await sandbox.upload("/tmp", [file("flood.py", flood)]);
  const began = performance.now();
  const flooding = output(sandbox, "python3 /tmp/flood.py");
  await Bun.sleep(300);
  expect(await ask(neighbour, question("quiet.test"))).toBe("ok 127.64.0.1");
  expect(Number(await flooding)).toBeGreaterThan(1000);
  const seconds = (performance.now() - began) / 1000;
  // 195 characters each: no more than 32768 of them got out, and no more than 50 a second after the first 200.
  const deep = looked.filter((name) => name.endsWith(".deep.test"));
  expect(deep.length).toBeGreaterThan(10);
  expect(deep.length).toBeLessThanOrEqual(Math.floor(32_768 / (deep[0]?.length ?? 1)));
  const asked = sandbox.network.connections.filter(({ kind, host }) => kind === "dns" && host !== "");
  expect(asked.length).toBeLessThanOrEqual(200 + 50 * (seconds + 1));
  expect(sandbox.network.connections.some(({ reason }) => reason === "more than 50 queries a second")).toBe(true);
  await until("an answer", 10_000, async () => (await ask(sandbox, question("x.other.test"))) === "no such name");
}, 60_000);

test("more names than addresses: the one that was asked for last leads there, and so does any that is asked for again", async () => {
  await using sandbox = await provider.create({
    ...ENVIRONMENT,
    network: allowing(`*.deep.test:${server.port}`, `*.deep.test:9`, `${LISTED}:${server.port}`, `${LISTED}:9`),
  });
  for (let i = 1; i <= 40; i++) expect(await ask(sandbox, question(`n${i}.deep.test`))).toBe(`ok 127.64.0.${i}`);
  const reach = (i: number) =>
    outcome(
      sandbox,
      `exec 3<>/dev/tcp/127.64.0.${i}/${server.port} && printf 'GET / HTTP/1.1\\r\\nHost: n${i}.deep.test:${server.port}\\r\\n\\r\\n' >&3 && cat <&3; exec 3>&-`,
    );
  expect((await reach(40))[1]).toEndWith("ok");
  expect((await reach(1))[1]).toContain("Connection refused");
  expect(await ask(sandbox, question("n1.deep.test"))).toBe("ok 127.64.0.1");
  expect((await reach(1))[1]).toEndWith("ok");
  expect(Number(await output(sandbox, "grep -c ' 0A ' /proc/net/tcp"))).toBeLessThanOrEqual(34);
});

test("ports that programs of the sandbox have stay theirs", async () => {
  await using sandbox = await provider.create({ ...ENVIRONMENT, network: named("busy.test") });
  if ((await outcome(sandbox, "command -v python3"))[0] !== 0) return console.log("skipped: Python is not installed");
  const serve = `import socket,time; s=socket.create_server(("0.0.0.0", ${server.port})); print("on", flush=True); time.sleep(60)`;
  await output(sandbox, `python3 -c '${serve}' > /tmp/on & until grep -q on /tmp/on; do sleep 0.02; done`);
  expect(await ask(sandbox, question("busy.test"))).toBe("failure");
  expect(lastRecord(sandbox, "dns")?.reason).toContain("Address already in use");
  await output(sandbox, "kill %1; wait");
  expect(await ask(sandbox, question("busy.test"))).toBe("ok 127.64.0.1");
});

test("a network that is changed changes what names lead to, at once; forks and neighbours have names of their own", async () => {
  await using sandbox = await provider.create(ENVIRONMENT);
  expect(await outcome(sandbox, "getent hosts a.test; echo; cat /proc/net/udp | wc -l")).toEqual([0, "\n1\n"]);
  await sandbox.network.change(named("a.test"));
  expect(await ask(sandbox, question("a.test"))).toBe("ok 127.64.0.1");
  await using snapshot = await sandbox.snapshot();
  await using fork = await provider.fork(snapshot);
  for (const each of [sandbox, fork]) expect(await ask(each, question("a.test"))).toBe("ok 127.64.0.1");
  names.set("b.test", [LISTED]);
  expect(await ask(sandbox, question("b.test"))).toBe("no such name");
  await sandbox.network.change({ mode: "public", allow: [`${LISTED}:80`] });
  expect(await ask(sandbox, question("b.test"))).toBe("ok 127.64.0.2");
  expect(await ask(fork, question("b.test"))).toBe("no such name");
  expect(status(await say(sandbox, "GET / HTTP/1.1\r\nHost: b.test\r\n\r\n", 1, server.port))).toContain("refused");
  await sandbox.network.change({ mode: "none", allow: [] });
  expect(await outcome(sandbox, "getent hosts b.test; cat /proc/net/udp | wc -l; grep -c 0A /proc/net/tcp")).toEqual([
    1,
    "1\n0\n",
  ]);
  expect(looked.filter((name) => name === "b.test")).toEqual(["b.test"]);
});
