/** The backend `e2b`: its protocol, here spoken by a server of the tests' with real sandboxes behind it. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { runCli } from "../../src/cli/program.ts";
import { E2bService, envdUrl } from "../../src/sandbox/backends/e2b-service.ts";
import { RemoteProvider } from "../../src/sandbox/backends/remote-provider.ts";
import { E2bServer, KEY } from "./e2b-server.ts";
import { testRemote } from "./remote-support.ts";
import { ENVIRONMENT, LIMITS, openProvider, outcome, output, type TestProvider, text, until } from "./support.ts";

let native: TestProvider;
let server: E2bServer;
let provider: RemoteProvider;
const open = (options: { url?: string; token?: string; template?: string; lifeMs?: number } = {}) =>
  new RemoteProvider(new E2bService({ url: server.url, token: KEY, ...options }));
beforeAll(async () => {
  native = await openProvider();
  server = new E2bServer(native);
  provider = open();
});
afterAll(async () => {
  await provider?.close();
  await server?.[Symbol.asyncDispose]();
  await native?.close();
});

testRemote(
  () => provider,
  async () => server.held.size,
);

test("what a shell can meet: its end, wrong syntax, marks, other outputs, signals, daemons", async () => {
  await using sandbox = await provider.create(ENVIRONMENT);
  expect((await outcome(sandbox, "exec > /tmp/elsewhere; echo lost; (kill -9 $BASHPID)"))[0]).toBe(137);
  expect(await outcome(sandbox, "printf '\\036aa:0\\036'; cat; read x; echo $?")).toEqual([0, "\x1eaa:0\x1e1\n"]);
  const [code, complaint] = await outcome(sandbox, "echo 'open");
  expect([code === 0, complaint]).toEqual([false, expect.stringContaining("unexpected EOF")]);
  expect(await outcome(sandbox, "sleep 60 & echo at once")).toEqual([0, "at once\n"]);
  const died = await sandbox.run("echo last; exit 9", LIMITS);
  expect([died.status, died.exitCode, text(died.output)]).toEqual(["shell_died", 9, "last\n"]);
  expect(await output(sandbox, "pwd; (sleep 0.2; kill -9 $$) &")).toBe("/work\n");
  await Bun.sleep(500);
  expect(await sandbox.run("true", LIMITS)).toMatchObject({ status: "shell_died", exitCode: 137 });
  expect(await outcome(sandbox, "kill -9 $PPID $$")).toEqual([null, ""]);
  expect(await outcome(sandbox, "echo on")).toEqual([0, "on\n"]);
});

test("a command over its time is ended with all below it, and the next one finds its folder", async () => {
  await using sandbox = await provider.create(ENVIRONMENT);
  await sandbox.run("mkdir deep && cd deep", LIMITS);
  const late = await sandbox.run("echo begun; trap '' TERM INT; while :; do sleep 77; done", {
    ...LIMITS,
    timeoutMs: 500,
  });
  expect([late.status, late.exitCode, text(late.output)]).toEqual(["timeout", null, "begun\n"]);
  expect(await output(sandbox, "pwd; grep -lz '^77$' /proc/[0-9]*/cmdline 2>/dev/null")).toBe("/work/deep\n");
  const flood = await sandbox.run("yes", { ...LIMITS, maxOutputBytes: 100 });
  expect(flood).toMatchObject({ status: "output_limit", exitCode: null, truncated: true });
});

test("a sandbox lives while it is used, and is gone soon after nobody extends its life", async () => {
  const before = server.held.size;
  await using short = open({ lifeMs: 1000 });
  const sandbox = await short.create(ENVIRONMENT);
  expect(server.asked.at(-1)).toMatchObject({ timeout: 1, secure: true, allow_internet_access: false });
  expect((await outcome(sandbox, "sleep 2; echo alive"))[1]).toBe("alive\n");
  await server.end(sandbox.id);
  await expect(sandbox.exec(["true"], { ...LIMITS, cwd: "/" })).rejects.toThrow(`sandbox ${sandbox.id} is gone`);
  await expect(sandbox.run("true", LIMITS)).rejects.toMatchObject({ code: "sandbox" });
  await sandbox.destroy();
  // As a killed client leaves it.
  const headers = { "X-API-Key": KEY };
  const body = JSON.stringify({ templateID: "base", timeout: 1 });
  await fetch(`${server.url}/sandboxes`, { method: "POST", headers, body });
  expect(server.held.size).toBe(before + 1);
  await until("the end of what nobody extends", 10_000, () => server.held.size === before);
});

test("refusals and silence have reasons", async () => {
  await expect(open({ token: "wrong" }).create(ENVIRONMENT)).rejects.toMatchObject({
    ...{ message: expect.stringContaining("Invalid API key"), hint: expect.stringContaining("sandbox.tokenEnv") },
  });
  await expect(open({ template: "none" }).create(ENVIRONMENT)).rejects.toThrow("template 'none' not found");
  await expect(open({ url: "http://127.0.0.1:9" }).create(ENVIRONMENT)).rejects.toThrow("does not answer");
  server.quota = 0;
  await expect(provider.create(ENVIRONMENT)).rejects.toMatchObject({
    ...{ message: expect.stringContaining("maximum number"), hint: expect.stringContaining("sandbox.warm") },
  });
  server.quota = 100;
  const network = { mode: "public", allow: [] } as const;
  await expect(provider.create({ ...ENVIRONMENT, network })).rejects.toMatchObject({ code: "sandbox" });
});

test("run --backend e2b: from the command line", async () => {
  const [out, err]: string[][] = [[], []];
  const stdout = { write: (part: string) => void out?.push(part) };
  const stderr = { write: (part: string) => void err?.push(part) };
  process.env.ALE_TEST_E2B = KEY;
  const argv = ["sandbox", "run", "--backend", "e2b", "--url", server.url, "--token-env", "ALE_TEST_E2B", "--"];
  const code = await runCli([...argv, "sh", "-c", "echo out; echo err >&2; exit 3"], { stdout, stderr, env: {} });
  delete process.env.ALE_TEST_E2B;
  expect([code, out?.join(""), err?.join("")]).toEqual([3, "out\n", "err\n"]);
});

test("where envd is", () => {
  expect(envdUrl("https://api.e2b.app", "abc", undefined)).toBe("https://49983-abc.e2b.app");
  expect(envdUrl("https://api.e2b.app", "abc", "eu.e2b.app")).toBe("https://49983-abc.eu.e2b.app");
  expect(envdUrl("http://127.0.0.1:3000", "abc", undefined)).toBe("http://127.0.0.1:3000");
});
