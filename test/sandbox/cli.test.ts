/** `ale sandbox`: commands here, and sandboxes of a service. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createApp } from "../../src/api/app.ts";
import { mountSandboxes } from "../../src/api/sandboxes/mount.ts";
import { type Service, serve } from "../../src/api/serve.ts";
import { runCli } from "../../src/cli/program.ts";
import { parsePlace } from "../../src/cli/sandbox/copy.ts";
import { ImageStore } from "../../src/images/image-store.ts";
import { ArchiveStore } from "../../src/sandbox/service/archives.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { ENVIRONMENT, LIMITS, openProvider, type TestProvider, until } from "./support.ts";

const TOKEN = "test-token-0123456789";
let folder: string;
let store: Store;
let provider: TestProvider;
let sandboxes: SandboxService;
let http: Service;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale-sandbox-cli-"));
  store = await openStore(join(folder, "ale.db"));
  const imageStore = new ImageStore(join(folder, "home"));
  provider = await openProvider({ resolveImage: imageStore.resolve });
  const capacity = { memoryBytes: 2 ** 33, cpus: 64, diskBytes: 2 ** 33, count: 8 };
  sandboxes = new SandboxService({ provider, capacity, archives: new ArchiveStore(join(folder, "home")) });
  const app = createApp({ store, token: TOKEN });
  mountSandboxes(app, { service: sandboxes, token: TOKEN, imageStore });
  http = serve(app, { port: 0 });
});
afterAll(async () => {
  await http?.close();
  await sandboxes?.close();
  await provider?.close();
  await store?.close();
  rmSync(folder, { recursive: true, force: true });
});

class Sink {
  text = "";
  write(text: string): void {
    this.text += text;
  }
}

async function command(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const env = { ALE_HOME: join(folder, "home"), ALE_URL: http.url, ALE_TOKEN: TOKEN };
  const code = await runCli(argv, { stdout, stderr, env });
  return { code, out: stdout.text, err: stderr.text };
}

const ale = (...argv: string[]) => command("sandbox", ...argv);

test("run: streams and exit code of the command", async () => {
  expect(await ale("run", "--", "sh", "-c", "echo out; echo err >&2; exit 3")).toEqual({
    code: 3,
    out: "out\n",
    err: "err\n",
  });
  const { code, out } = await ale("run", "--json", "--memory", "64", "--", "pwd");
  expect([code, JSON.parse(out)]).toEqual([0, expect.objectContaining({ exitCode: 0, stdout: "/work\n", stderr: "" })]);
  expect(await ale("run", "--timeout", "0.2", "--", "sleep", "9")).toMatchObject({
    code: 1,
    err: expect.stringContaining("more than 0.2 s"),
  });
  expect((await ale("run", "--", "nonesuch")).err).toContain("there is no program nonesuch");
  expect((await ale("run", "--profile", "nonesuch", "--", "true")).err).toContain("there is no sandbox profile");
});

test("run: what it did not get to is said, with why", async () => {
  const ask = (host: string) =>
    `exec 3<>/dev/tcp/127.0.0.1/3128; printf "CONNECT ${host}:443 HTTP/1.1\\r\\nHost: ${host}:443\\r\\n\\r\\n" >&3; head -1 <&3; `;
  const script = `${ask("other.test")}${ask("127.0.0.1")}`;
  const network = ["--network", "allowlist", "--allow", "listed.test"];
  const { out, err } = await ale("run", ...network, "--", "bash", "-c", script);
  expect(out).toBe("HTTP/1.1 403 Forbidden\r\n".repeat(2));
  expect(err).toMatch(/^denied: other\.test:443: .*not listed.*\ndenied: 127\.0\.0\.1:443: .*\n$/);
  const { refused } = JSON.parse((await ale("run", ...network, "--json", "--", "bash", "-c", script + script)).out);
  expect(refused).toMatchObject([{ host: "other.test", port: 443, verdict: "denied" }, { host: "127.0.0.1" }]);
});

test("a sandbox that stays: list, logs, copies, fork, end", async () => {
  expect(await ale("ps")).toMatchObject({ code: 0, err: "no sandboxes\n" });
  expect(
    (
      await ale(
        "run",
        "--detach",
        "--name",
        "box",
        "--",
        "sh",
        "-c",
        "echo ' \x1b[31mred'; cd /work; ln -s /etc/hostname l",
      )
    ).out,
  ).toBe("box\n");
  await until("the command ended", 5000, () => sandboxes.get("box").commands[0]?.state === "ended");
  expect((await ale("ps")).out).toMatch(/box +running +host +512 MB/);
  expect((await ale("logs", "box", "c1")).out).toBe(" red\n");
  expect((await ale("logs", "box")).out).toContain("(exit 0,");

  const from = join(folder, "from");
  mkdirSync(join(from, "sub"), { recursive: true });
  writeFileSync(join(from, "run.sh"), "#!/bin/sh\necho ran\n", { mode: 0o755 });
  writeFileSync(join(from, "sub/data"), new Uint8Array([0, 255]));
  symlinkSync("/etc/passwd", join(from, "link"));
  expect((await ale("cp", from, "box:/work/in", "--json")).out).toBe('{"files":2,"bytes":21,"skipped":1}\n');
  const ran = await sandboxes.get("box").exec(["./in/run.sh"], { ...LIMITS, cwd: "/work" });
  expect(new TextDecoder().decode(ran.output)).toBe("ran\n");
  await ale("cp", "box:in/sub/data", folder);
  expect([...readFileSync(join(folder, "data"))]).toEqual([0, 255]);

  const out = join(folder, "out");
  expect(JSON.parse((await ale("cp", "box:/work", out, "--json")).out)).toMatchObject({ files: 2, skipped: 1 });
  expect(statSync(join(out, "in/run.sh")).mode & 0o777).toBe(0o755);
  expect((await ale("cp", "box:/work", out)).err).toContain("exists already");
  expect((await ale("cp", "a", "b")).err).toContain("one side of a copy is in a sandbox");

  expect((await ale("stats")).out).toMatch(/^name +cpu +memory +at most +oom kills +processes +disk .*\nbox +\d/);
  expect(JSON.parse((await ale("stats", "box", "--json")).out)).toMatchObject([{ sandbox: "box", bytesOut: 0 }]);
  expect(await ale("pause", "box")).toMatchObject({ code: 0 });
  expect((await ale("ps")).out).toMatch(/box +paused/);
  expect(await ale("stop", "nonesuch")).toMatchObject({ code: 2, err: expect.stringContaining("no sandbox") });
  for (const [change, state] of [
    ["resume", "running"],
    ["stop", "stopped"],
    ["restart", "running"],
  ] as const)
    expect(JSON.parse((await ale(change, "box", "--json")).out)).toMatchObject([{ id: "box", state }]);
  expect(await ale("resume", "box")).toMatchObject({ code: 2, err: expect.stringContaining("running") });

  expect((await ale("fork", "box", "second")).out).toBe("second\n");
  expect(JSON.parse((await ale("kill", "box", "second", "--json")).out)).toEqual({ killed: ["box", "second"] });
  expect(await ale("logs", "box")).toMatchObject({
    code: 2,
    err: expect.stringContaining('there is no sandbox "box"'),
  });
});

test("without a service, the next step is said", async () => {
  const { code, err } = await ale("ps", "--url", "http://127.0.0.1:1");
  expect([code, err]).toEqual([2, expect.stringContaining("start one: ale serve")]);
  expect((await ale("shell", "box")).err).toContain("a shell needs a terminal");
});

test("bench is the bench of sandboxes, which says what cases there are", async () => {
  expect(await ale("bench", "colt")).toMatchObject({ code: 2, err: expect.stringContaining("did you mean cold?") });
  const { code, out } = await ale("bench", "session", "--rounds", "1", "--json");
  expect([code, JSON.parse(out)]).toMatchObject([0, [{ name: "session", backend: "native", concurrency: 1 }]]);
});

test.each([
  ["box:/a/b", "box", "/a/b"],
  ["box:rel", "box", "rel"],
  ["./a:b", undefined, "./a:b"],
  ["/a:b", undefined, "/a:b"],
  ["plain", undefined, "plain"],
  ["box:", undefined, "box:"],
])("%s is a place", (text, sandbox, path) => {
  expect(parsePlace(text)).toEqual({ sandbox, path } as never);
});

test("snapshot, commit, archive, restore, export; images", async () => {
  const box = await sandboxes.create({ id: "kept", environment: ENVIRONMENT });
  const run = async (id: string, script: string) => {
    const { output } = await sandboxes.get(id).exec(["sh", "-c", script], { ...LIMITS, cwd: "/work" });
    return new TextDecoder().decode(output);
  };
  await run("kept", "echo one > f");
  expect(await ale("snapshot", "kept", "snap")).toEqual({ code: 0, out: "snap\n", err: "" });
  expect((await ale("snapshots")).out).toMatch(/snap +kept +0\.0 MB/);
  expect((await ale("run", "--detach", "--name", "child", "--snapshot", "snap", "--", "true")).out).toBe("child\n");
  expect(await run("child", "cat f")).toBe("one\n");
  expect(await ale("run", "--snapshot", "snap", "--", "true")).toMatchObject({ code: 2 });
  expect((await ale("commit", "kept", "made:1")).out).toMatch(/^made:1 {2}2 layers, /);
  expect((await ale("archive", "kept")).code).toBe(0);
  expect(box.state).toBe("archived");
  expect((await ale("restore", "kept")).code).toBe(0);
  const file = join(folder, "kept.tar.gz");
  expect((await ale("export", "kept", file)).code).toBe(0);
  expect(JSON.parse((await command("images", "ls", "--json")).out)).toMatchObject([{ name: "made:1" }]);
  expect((await command("images", "import", file, "back", "--base", "host")).out).toMatch(/^back {2}1 layers, /);
  expect((await ale("run", "--detach", "--name", "back", "--image", "back", "--", "true")).out).toBe("back\n");
  expect(await run("back", "cat f")).toBe("one\n");
  expect((await command("images", "ls")).out).toMatch(/back +profile:host +1 /);
  expect(await command("images", "rm", "back", "made:1")).toEqual({ code: 0, out: "", err: "" });
  expect(await command("images", "rm", "back")).toMatchObject({ code: 2, err: expect.stringContaining("no image") });
  expect(await command("images", "import", join(folder, "nonesuch"), "x")).toMatchObject({ code: 2 });
  expect((await ale("forget", "snap", "--json")).out).toBe('{"forgotten":["snap"]}\n');
  expect((await ale("kill", "kept", "child", "back")).code).toBe(0);
});
