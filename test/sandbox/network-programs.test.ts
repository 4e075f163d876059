/**
 * git, npm and pip with what a sandbox may reach: a host that is listed, with TLS by an authority of its own, through the proxy and, where
 * they know of none, through the resolver. The servers are the test's own; nothing outside is asked.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { writeTar } from "../../src/sandbox/tar.ts";
import { allowing } from "./network-support.ts";
import { ENVIRONMENT, file, openProvider, outcome, type TestProvider } from "./support.ts";

const LISTED = "127.0.0.5";
const HOSTS = ["git.test", "npm.test", "pip.test"];
/** As a user says it whose authority is not among the machine's. */
const TRUST = ["GIT_SSL_CAINFO", "NPM_CONFIG_CAFILE", "PIP_CERT"]
  .map((name) => `export ${name}=/work/authority.pem;`)
  .join(" ");
const PLAIN = "unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY;";
const LIMITS = { timeoutMs: 60_000, maxOutputBytes: 16_384 };

/** Sandboxes see what is below /usr. */
const usable = (name: string) => (Bun.which(name, { PATH: "/usr/bin" }) === null ? undefined : `/usr/bin/${name}`);
const openssl = Bun.which("openssl");
const missing = (...names: string[]) => names.filter((name) => usable(name) === undefined);

let folder: string;
let provider: TestProvider;
let server: ReturnType<typeof Bun.serve>;
let authority: Uint8Array;
const asked: string[] = [];

function run(...argv: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(argv, {
    cwd: folder,
    env: { PATH: process.env.PATH, HOME: folder },
    timeout: 30_000,
  });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
}

/** `git http-backend`, with the headers that CGI gives and takes. */
async function serveGit(request: Request, path: string, query: string): Promise<Response> {
  const gzip = request.headers.get("content-encoding") === "gzip";
  const body = new Uint8Array(await request.arrayBuffer());
  const child = Bun.spawn(["git", "http-backend"], {
    stdin: gzip ? Bun.gunzipSync(body) : body,
    env: {
      ...{ PATH: process.env.PATH, GIT_PROJECT_ROOT: folder, GIT_HTTP_EXPORT_ALL: "1", HOME: folder },
      ...{ REQUEST_METHOD: request.method, PATH_INFO: path, QUERY_STRING: query.slice(1), REMOTE_USER: "t" },
      ...{
        CONTENT_TYPE: request.headers.get("content-type") ?? "",
        GIT_PROTOCOL: request.headers.get("git-protocol") ?? "",
      },
    },
  });
  const output = Buffer.from(await new Response(child.stdout).arrayBuffer());
  const end = output.indexOf("\r\n\r\n");
  const lines = output.subarray(0, end).toString().split("\r\n");
  const headers = lines.map((line) => line.split(": ", 2) as [string, string]);
  const status = headers.find(([name]) => name === "Status")?.[1];
  return new Response(output.subarray(end + 4), { status: Number(status?.slice(0, 3) ?? 200), headers });
}

const PACKAGE = Bun.gzipSync(
  Buffer.from(
    writeTar([
      {
        ...{ kind: "file", path: "package/package.json", mode: 0o644 },
        content: Buffer.from('{"name":"tiny","version":"1.0.0"}'),
      },
    ]),
  ),
);

function serveNpm(path: string): Response {
  if (path.endsWith(".tgz")) return new Response(PACKAGE);
  const integrity = `sha512-${createHash("sha512").update(PACKAGE).digest("base64")}`;
  const tarball = `https://npm.test:${server.port}/tiny/-/tiny-1.0.0.tgz`;
  const version = { name: "tiny", version: "1.0.0", dist: { tarball, integrity } };
  return Response.json({ name: "tiny", "dist-tags": { latest: "1.0.0" }, versions: { "1.0.0": version } });
}

const WHEEL = "tiny-1.0.0-py3-none-any.whl";
const MAKE_WHEEL = `
import zipfile
with zipfile.ZipFile("${WHEEL}", "w") as wheel:
    wheel.writestr("tiny.py", "")
    wheel.writestr("tiny-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0.0\\n")
    wheel.writestr("tiny-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr("tiny-1.0.0.dist-info/RECORD", "")
`;

function servePip(path: string): Response {
  if (path.endsWith(".whl")) return new Response(Bun.file(join(folder, WHEEL)));
  return new Response(`<a href="/files/${WHEEL}">${WHEEL}</a>`, { headers: { "Content-Type": "text/html" } });
}

beforeAll(async () => {
  if (openssl === null) return;
  folder = mkdtempSync(join(tmpdir(), "ale-programs-"));
  const names = HOSTS.map((name) => `DNS:${name}`).join(",");
  const key = ["-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2"];
  run(openssl, "req", "-x509", ...key, "-subj", "/CN=test", "-addext", `subjectAltName=${names}`);
  authority = new Uint8Array(readFileSync(join(folder, "cert.pem")));
  server = Bun.serve({
    ...{ hostname: LISTED, port: 0 },
    tls: { key: readFileSync(join(folder, "key.pem"), "utf8"), cert: readFileSync(join(folder, "cert.pem"), "utf8") },
    fetch: (request) => {
      const { hostname, pathname, search } = new URL(request.url);
      asked.push(`${hostname}${pathname}`);
      if (hostname === "git.test") return serveGit(request, pathname, search);
      return hostname === "npm.test" ? serveNpm(pathname) : servePip(pathname);
    },
  });
  const resolve = async (host: string) => {
    if (HOSTS.includes(host)) return [LISTED];
    throw Object.assign(new Error("it does not exist"), { code: "ENOTFOUND" });
  };
  provider = await openProvider({ network: { resolve } });
});
afterAll(async () => {
  await provider?.close();
  await server?.stop(true);
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
});

async function open(host: string): Promise<NativeSandbox> {
  const { port } = server;
  const sandbox = await provider.create({
    ...{ ...ENVIRONMENT, memoryBytes: 512 << 20, diskBytes: 128 << 20, pids: 64 },
    network: allowing(`${host}:${port}`, `${LISTED}:${port}`),
  });
  await sandbox.upload("/work", [file("authority.pem", authority)]);
  return sandbox;
}

const said = async (sandbox: NativeSandbox, command: string) => {
  const { exitCode, output } = await sandbox.run(command, LIMITS);
  return [exitCode, new TextDecoder().decode(output)] as const;
};

/** Connections to the test's hosts that were denied or failed; what else programs ask for is not the test's. */
const refused = ({ network }: NativeSandbox) =>
  network.connections.filter(({ verdict, host }) => verdict !== "allowed" && HOSTS.includes(host));

describe.each([
  ["the proxy", ""],
  ["the resolver", PLAIN],
])("through %s", (_way, before) => {
  test.skipIf(openssl === null || missing("git").length > 0)("git clones and pushes", async () => {
    rmSync(join(folder, "repo.git"), { recursive: true, force: true });
    run("git", "init", "--quiet", "--bare", "repo.git");
    run("git", "-C", "repo.git", "config", "http.receivepack", "true");
    await using sandbox = await open("git.test");
    const url = `https://git.test:${server.port}/repo.git`;
    const commit = "git -c user.name=a -c user.email=a@a.test commit --quiet --allow-empty -m one";
    const script = [
      `${TRUST}${before} git clone --quiet ${url} r 2>&1; cd r`,
      `head -c 3000000 /dev/urandom > big; git add big; ${commit} && git push --quiet origin HEAD:main 2>&1`,
      `git ls-remote --heads ${url} | wc -l`,
    ].join("; ");
    expect(await said(sandbox, script)).toEqual([0, "warning: You appear to have cloned an empty repository.\n1\n"]);
    expect(await said(sandbox, `cd /work; git clone --quiet -b main ${url} again; stat -c %s again/big`)).toEqual([
      0,
      "3000000\n",
    ]);
    expect(refused(sandbox)).toEqual([]);
  });

  test.skipIf(openssl === null || missing("npm", "node").length > 0)("npm views and installs", async () => {
    await using sandbox = await open("npm.test");
    const registry = `--registry=https://npm.test:${server.port}/ --no-audit --no-fund --no-update-notifier --fetch-retries=0 --loglevel=error`;
    const script = `${TRUST}${before} npm view ${registry} tiny version; npm install ${registry} --silent tiny; ls node_modules`;
    expect(await said(sandbox, script)).toEqual([0, "1.0.0\ntiny\n"]);
    expect(refused(sandbox)).toEqual([]);
  });

  test.skipIf(openssl === null || missing("pip3", "python3").length > 0)("pip downloads", async () => {
    run("/usr/bin/python3", "-c", MAKE_WHEEL);
    await using sandbox = await open("pip.test");
    const index = `--index-url https://pip.test:${server.port}/simple/ --disable-pip-version-check`;
    const script = `${TRUST}${before} pip3 download --quiet --no-deps ${index} tiny 2>&1; ls *.whl`;
    expect(await said(sandbox, script)).toEqual([0, `${WHEEL}\n`]);
    expect(refused(sandbox)).toEqual([]);
  });
});

test.skipIf(openssl === null || missing("git").length > 0)(
  "what is not listed is refused by name, and the test's authority is needed",
  async () => {
    await using sandbox = await open("git.test");
    const url = `https://git.test:${server.port}/repo.git`;
    expect((await outcome(sandbox, `git ls-remote ${url} 2>&1`))[1]).toMatch(/certificate/);
    asked.length = 0;
    expect((await outcome(sandbox, `git ls-remote https://npm.test:${server.port}/x 2>&1`))[1]).toMatch(/403/);
    expect(asked).toEqual([]);
  },
);

for (const name of ["git", "npm", "pip3"])
  if (missing(name).length > 0) console.log(`skipped: ${name} in a sandbox: it is not in /usr/bin`);
if (openssl === null) console.log("skipped: programs with TLS of the test's own: openssl is not installed");
