/** The HTTP surfaces over real sandboxes: Ale's own, ROCK's, GEM's. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createApp } from "../../src/api/app.ts";
import { mountSandboxes } from "../../src/api/sandboxes/mount.ts";
import { type Service, serve } from "../../src/api/serve.ts";
import { encodeFiles } from "../../src/sandbox/protocol.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { archiveToTar } from "../../src/sandbox/tar.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { loadSuite } from "../../src/tasks/suite.ts";
import { file, openProvider, type TestProvider, until } from "./support.ts";

const TOKEN = "test-token-0123456789";
const HELLO = resolve(import.meta.dir, "../../tasks/hello");

let folder: string;
let store: Store;
let provider: TestProvider;
let sandboxes: SandboxService;
let http: Service;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "ale-sandbox-api-"));
  store = await openStore(join(folder, "ale.db"));
  provider = await openProvider();
  const capacity = { memoryBytes: 2 ** 33, cpus: 64, diskBytes: 2 ** 33, count: 16 };
  sandboxes = new SandboxService({ provider, capacity });
  const app = createApp({ store, token: TOKEN });
  const images = new Map([["python:3.11", "host"]]);
  mountSandboxes(app, { service: sandboxes, token: TOKEN, images, gemMaxTurns: 3 });
  http = serve(app, { port: 0 });
});
afterAll(async () => {
  await http?.close();
  await sandboxes?.close();
  await provider?.close();
  await store?.close();
  rmSync(folder, { recursive: true, force: true });
});

// biome-ignore lint/suspicious/noExplicitAny: answers are compared with what they should be
type Json = any;

async function call(
  method: string,
  path: string,
  body?: unknown,
): Promise<{ status: number; json: Json; bytes: Uint8Array }> {
  const raw = body instanceof Uint8Array;
  const response = await fetch(http.url + path, {
    method,
    headers: { "X-Key": TOKEN, ...(raw || body === undefined ? {} : { "Content-Type": "application/json" }) },
    ...(body === undefined ? {} : { body: raw ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body) }),
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  const isJson = response.headers.get("content-type")?.includes("json") ?? false;
  return { status: response.status, bytes, json: isJson ? JSON.parse(new TextDecoder().decode(bytes)) : undefined };
}

test("nothing of a sandbox is told without the token", async () => {
  for (const path of ["/v1/sandboxes", "/v1/sandboxes/x/log", "/apis/envs/sandbox/v1/sandboxes"])
    expect((await fetch(http.url + path)).status).toBe(401);
  const gem = await fetch(`${http.url}/apis/v1/envs/gem/make`, { method: "POST", body: "{}" });
  expect(gem.status).toBe(401);
  const withPassword = await fetch(`${http.url}/v1/sandboxes`, {
    headers: { Authorization: `Basic ${btoa(`ale:${TOKEN}`)}` },
  });
  expect(withPassword.status).toBe(200);
});

describe("/v1/sandboxes", () => {
  const small = { memoryMb: 64, diskMb: 16, processes: 64 };
  let id: string;
  beforeAll(async () => {
    const made = await call("POST", "/v1/sandboxes", { ...small, labels: { team: "a" }, idleSeconds: 600 });
    expect(made.status).toBe(201);
    expect(made.json).toMatchObject({
      state: "running",
      profile: "host",
      memoryMb: 64,
      labels: { team: "a" },
      expiresBy: "idle",
    });
    id = made.json.id;
  });
  const at = (path: string) => `/v1/sandboxes/${id}${path}`;

  test("programs: streams, input, environment, bytes", async () => {
    const exec = async (body: Json) => (await call("POST", at("/exec"), body)).json;
    expect(await exec({ command: "cat; echo $A >&2; exit 3", stdin: "in", env: { A: "x" } })).toMatchObject({
      ...{ status: "exited", exitCode: 3, stdout: "in", stderr: "x\n" },
    });
    expect((await exec({ command: ["printf", "\\377\\000"], encoding: "base64" })).stdout).toBe("/wA=");
    expect((await exec({ command: ["sleep", "9"], timeoutSeconds: 0.2 })).status).toBe("timeout");
    expect((await call("POST", at("/exec"), { command: ["nonesuch"] })).status).toBe(400);
    const wrong = await call("POST", at("/exec"), { command: 7 });
    expect([wrong.status, wrong.json.error.message]).toEqual([400, expect.stringContaining("command")]);
  });

  test("shells keep their state; interactive programs take lines", async () => {
    expect((await call("POST", at("/shells"), { name: "dev" })).status).toBe(201);
    const run = async (body: Json) => (await call("POST", at("/shells/dev/run"), body)).json;
    await run({ command: "cd /tmp; X=1" });
    expect(await run({ command: "echo $PWD $X" })).toMatchObject({ exitCode: 0, output: "/tmp 1\n", matched: null });
    const wrong = await call("POST", at("/shells/dev/run"), { command: "if then" });
    expect([wrong.status, wrong.json.error.message]).toEqual([400, expect.stringContaining("syntax error")]);
    expect(
      await run({ command: "read -p 'name? ' n; echo hi $n", interactive: true, expect: ["name\\? "] }),
    ).toMatchObject({
      matched: "name? ",
    });
    expect(await run({ command: "ale", interactive: true })).toMatchObject({ exitCode: 0, output: "hi ale\n" });
    const sleeping = run({ command: "sleep 30" });
    await until("it runs", 5000, async () => (await call("GET", at("/shells"))).json.shells[0].busy);
    await Bun.sleep(100);
    expect((await call("POST", at("/shells/dev/interrupt"))).json).toEqual({ interrupted: true });
    expect(await sleeping).toMatchObject({ exitCode: 130 });
    expect((await call("DELETE", at("/shells/dev"))).status).toBe(204);
  });

  test("commands in the background", async () => {
    const { json } = await call("POST", at("/commands"), { command: "echo one; echo two >&2" });
    await until("it ended", 5000, async () => (await call("GET", at(`/commands/${json.id}`))).json.state === "ended");
    expect((await call("GET", at("/commands"))).json.commands[0]).toMatchObject({ exitCode: 0, outputBytes: 8 });
    const log = await call("GET", at(`/commands/${json.id}/log?offset=4`));
    expect(new TextDecoder().decode(log.bytes)).toBe("two\n");
    const long = await call("POST", at("/commands"), { command: ["sleep", "60"] });
    expect((await call("DELETE", at(`/commands/${long.json.id}`))).json.state).toBe("failed");
  });

  test("terminals", async () => {
    const { json } = await call("POST", at("/terminals"), { command: ["cat"], rows: 10, columns: 40 });
    const terminal = at(`/terminals/${json.terminal}`);
    expect((await call("POST", `${terminal}/input`, new TextEncoder().encode("hello\n"))).status).toBe(204);
    let shown = "";
    await until("it echoes", 5000, async () => {
      shown += atob((await call("GET", `${terminal}/output?waitMs=500`)).json.output);
      return shown === "hello\r\nhello\r\n";
    });
    expect((await call("POST", `${terminal}/size`, { rows: 5, columns: 20 })).status).toBe(204);
    await call("POST", `${terminal}/input`, new Uint8Array([4]));
    await until("it ended", 5000, async () => (await call("GET", `${terminal}/output?waitMs=500`)).json.exitCode === 0);
    expect((await call("DELETE", terminal)).status).toBe(204);
  });

  test("files and folders", async () => {
    const content = new Uint8Array(600_000).map((_, i) => i % 256);
    expect((await call("PUT", at("/files?path=data/f.bin&mode=640"), content)).status).toBe(204);
    expect(Buffer.compare((await call("GET", at("/files?path=/work/data/f.bin"))).bytes, content)).toBe(0);
    expect((await call("GET", at("/files?path=data/f.bin&offset=1&bytes=3"))).bytes).toEqual(new Uint8Array([1, 2, 3]));
    await call("PUT", at("/files?path=lines"), new TextEncoder().encode("a\nb\nc\n"));
    expect(new TextDecoder().decode((await call("GET", at("/files?path=lines&lines=2-"))).bytes)).toBe("b\nc\n");
    expect((await call("PATCH", at("/files"), { path: "lines", mode: "600" })).status).toBe(204);
    expect((await call("GET", at("/files/attributes?path=lines"))).json).toMatchObject({
      kind: "file",
      mode: "600",
      size: 6,
    });
    expect((await call("GET", at("/files?path=nonesuch"))).status).toBe(404);
    const tar = archiveToTar(encodeFiles([file("x/y", "deep"), file("z", "flat")]));
    expect((await call("PUT", at("/folder?path=in&replace=true"), tar)).status).toBe(204);
    const back = (await call("GET", at("/folder?path=in"))).bytes;
    await Bun.write(join(folder, "back.tar"), back);
    expect(Bun.spawnSync(["tar", "-xOf", join(folder, "back.tar"), "x/y", "z"]).stdout.toString()).toBe("deepflat");
  });

  test("life: pause, stop, restart, fork, statistics, log", async () => {
    expect((await call("POST", at("/pause"))).json.state).toBe("paused");
    expect((await call("POST", at("/pause"))).status).toBe(409);
    expect((await call("POST", at("/resume"))).json.state).toBe("running");
    expect((await call("GET", at("/statistics"))).json.diskBytes).toBeGreaterThan(0);
    const forked = await call("POST", at("/fork"), { id: "forked" });
    expect([forked.status, forked.json.sandbox.id]).toEqual([201, "forked"]);
    expect((await call("DELETE", "/v1/sandboxes/forked")).status).toBe(204);
    expect((await call("POST", at("/stop"))).json).toMatchObject({ state: "stopped", actions: ["restart", "delete"] });
    expect((await call("POST", at("/exec"), { command: "true" })).status).toBe(400);
    expect((await call("POST", at("/restart"))).json.state).toBe("running");
    expect((await call("GET", at("/log"))).json.entries.length).toBeGreaterThan(5);
    expect((await call("GET", "/v1/sandboxes")).json).toMatchObject({ waiting: 0, sandboxes: [{ id }] });
    expect((await call("DELETE", at(""))).status).toBe(204);
    expect((await call("GET", at(""))).status).toBe(404);
    const refused = await call("POST", "/v1/sandboxes", { memoryMb: 100_000 });
    expect([refused.status, refused.json.error.message]).toEqual([
      503,
      expect.stringContaining("more than there is: memory"),
    ]);
    expect((await call("POST", "/v1/sandboxes", { profile: "nonesuch" })).status).toBe(422);
  });
});

describe("ROCK", () => {
  const BASE = "/apis/envs/sandbox/v1";
  const rock = async (path: string, body?: unknown): Promise<Json> =>
    (await call(body === undefined ? "GET" : "POST", BASE + path, body)).json;
  const start = { image: "python:3.11", memory: "64m", disk: "16m", cpus: 1 };
  let id: string;
  beforeAll(async () => {
    const answer = await rock("/start", start);
    expect(answer).toMatchObject({ status: "Success", message: null, error: null });
    expect(Object.keys(answer.result)).toEqual([
      ...["code", "exit_code", "failure_reason", "sandbox_id", "host_name", "host_ip", "cpus", "memory", "disk"],
      "disk_limit_rootfs",
    ]);
    id = answer.result.sandbox_id;
  });
  const inSession = (command: string, more: Json = {}) =>
    rock("/run_in_session", { sandbox_id: id, session: "s", command, ...more });

  test("status, life, lists", async () => {
    const { result } = await rock(`/get_status?sandbox_id=${id}`);
    expect(result).toMatchObject({
      ...{
        sandbox_id: id,
        state: "running",
        is_alive: true,
        image: "python:3.11",
        memory: "64m",
        disk: "16m",
        user_id: "default",
      },
      status: { image_pull: { status: "success" }, docker_run: { status: "success" } },
      state_history: [{ from_state: "pending", to_state: "running", event: "alive" }],
    });
    expect(result.auto_stop_time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$/);
    expect((await rock(`/is_alive?sandbox_id=${id}`)).result.is_alive).toBe(true);
    expect((await rock("/sandboxes?image=python:3.11")).result).toMatchObject({
      total: 1,
      has_more: false,
      items: [{ sandbox_id: id }],
    });
    expect((await rock("/sandboxes?image=other")).result.total).toBe(0);
    expect((await rock("/sandboxes/batch", { sandbox_ids: [id, "x"] })).result.statuses).toHaveLength(1);
    expect((await rock("/delete", { sandbox_id: id })).result).toMatchObject({ code: 4000 });
    expect((await rock("/stop", { sandbox_id: id })).result).toBe(`${id} stopped`);
    expect(await rock(`/get_status?sandbox_id=${id}`)).toMatchObject({
      status: "Failed",
      error: `Sandbox ${id} not found`,
    });
    expect((await rock(`/get_status?sandbox_id=${id}&include_all_states=True`)).result).toMatchObject({
      state: "stopped",
      is_alive: false,
    });
    expect((await rock("/restart", { sandbox_id: id })).result.sandbox_id).toBe(id);
    expect(await rock("/restart", { sandbox_id: id })).toMatchObject({ status: "Failed", result: { code: 4000 } });
    expect((await rock(`/get_sandbox_statistics?sandbox_id=${id}`)).result).toMatchObject({
      disk_log_percent: 0,
      disk_dind_percent: 0,
    });
  });

  test("execute", async () => {
    const execute = (body: Json) => rock("/execute", { sandbox_id: id, ...body });
    expect((await execute({ command: ["sh", "-c", "printf 'a\\377'; echo e >&2; exit 2"] })).result).toEqual({
      ...{ stdout: "a\\xff", stderr: "e\n", exit_code: 2 },
    });
    expect((await execute({ command: "echo $A | tr a-z A-Z", env: { A: "x" }, cwd: "/tmp" })).result.stdout).toBe(
      "X\n",
    );
    expect(await execute({ command: ["sleep", "9"], timeout: 0.2 })).toMatchObject({
      ...{
        status: "Failed",
        error: "Timeout (0.2s) exceeded while running command",
        result: { code: 6000, exit_code: -1 },
      },
    });
    expect(await execute({ command: ["false"], check: true, error_msg: "mine" })).toMatchObject({
      ...{ status: "Failed", error: expect.stringMatching(/^mine: Command \["false"\] failed with exit code 1/) },
    });
  });

  test("sessions: state, check modes, syntax, time limits, prompts in the output", async () => {
    expect((await rock("/create_session", { sandbox_id: id, session: "s", env: { A: "1" } })).result).toEqual({
      output: "",
      session_type: "bash",
    });
    expect(await rock("/create_session", { sandbox_id: id, session: "s" })).toMatchObject({ status: "Failed" });
    await inSession("cd /tmp; export B=2");
    expect((await inSession("echo $A $B; pwd; echo SHELLPS1PREFIX EXITCODESTART9EXITCODEEND")).result).toEqual({
      session_type: "bash",
      output: "1 2\n/tmp\nSHELLPS1PREFIX EXITCODESTART9EXITCODEEND",
      exit_code: 0,
      failure_reason: "",
      expect_string: "SHELLPS1PREFIX",
    });
    expect(await inSession("ls /nope")).toEqual({
      status: "Failed",
      message: null,
      error: expect.stringContaining(
        "Command 'ls /nope' failed with exit code 2. Here is the output:\n'ls: cannot access",
      ),
      result: null,
    });
    expect((await inSession("false", { check: "silent" })).result.exit_code).toBe(1);
    expect((await inSession("false", { check: "ignore" })).result.exit_code).toBeNull();
    expect((await inSession("touch /tmp/no\nif then")).error).toContain("syntax error");
    expect((await inSession("ls /tmp/no", { check: "silent" })).result.exit_code).toBe(2);
    expect((await inSession("sleep 30", { timeout: 0.3 })).error).toBe(
      "timeout after 0.3 seconds while running command 'sleep 30'",
    );
    expect((await inSession("echo $B")).result.output).toBe("2");
    expect((await inSession("exit 7")).error).toContain("the shell ended with exit code 7");
    expect((await inSession('echo "[$B]"')).result.output).toContain("[]");
    expect(await rock("/run_in_session", { sandbox_id: id, session: "none", command: "true" })).toMatchObject({
      status: "Failed",
    });
  });

  test("interactive programs and expectations", async () => {
    const ask = { is_interactive_command: true, expect: [">>> "] };
    const loop = 'bash --norc -c \'while printf ">>> "; read -r l && [ "$l" != quit ]; do eval "$l"; done\'';
    expect((await inSession(loop, ask)).result).toMatchObject({ output: "", exit_code: 0, expect_string: ">>> " });
    expect((await inSession("echo $((6 * 7))", ask)).result).toMatchObject({ output: "42", expect_string: ">>> " });
    expect((await inSession("quit", { is_interactive_quit: true })).result).toMatchObject({
      exit_code: 0,
      expect_string: "SHELLPS1PREFIX",
    });
    expect((await inSession("echo back")).result.output).toBe("back");
    expect((await rock("/close_session", { sandbox_id: id, session: "s" })).result).toEqual({ session_type: "bash" });
  });

  test("files", async () => {
    expect((await rock("/write_file", { sandbox_id: id, path: "/tmp/a/b", content: "hällo\n" })).result).toEqual({
      success: true,
      message: "",
    });
    expect((await rock("/read_file", { sandbox_id: id, path: "/tmp/a/b" })).result).toEqual({ content: "hällo\n" });
    expect(await rock("/read_file", { sandbox_id: id, path: "/tmp/none" })).toMatchObject({ status: "Failed" });
    const form = new FormData();
    form.set("sandbox_id", id);
    form.set("target_path", "/tmp/a");
    form.set("file", new File([new Uint8Array([0, 255, 10])], "raw.bin"));
    const response = await fetch(`${http.url}${BASE}/upload`, {
      method: "POST",
      headers: { "X-API-Key": TOKEN },
      body: form,
    });
    expect(await response.json()).toMatchObject({ result: { success: true, file_name: "raw.bin" } });
    expect(await rock("/read_file", { sandbox_id: id, path: "/tmp/a/raw.bin" })).toMatchObject({
      status: "Failed",
      result: { code: 6000 },
    });
    expect(
      (await rock("/read_file", { sandbox_id: id, path: "/tmp/a/raw.bin", errors: "backslashreplace" })).result.content,
    ).toBe("\0\\xff\n");
  });

  test("what is not there is refused, what is not right is named", async () => {
    expect(await rock("/start", { memory: "8g" })).toMatchObject({
      status: "Failed",
      message: "invalid parameter",
      result: null,
      error: expect.stringContaining("body.image"),
    });
    expect(await rock("/execute", { sandbox_id: "  ", command: "x" })).toMatchObject({
      error: expect.stringContaining("body.sandbox_id"),
    });
    for (const wrong of [
      { image: "nonesuch" },
      { num_gpus: 1 },
      { image_os: "windows" },
      { memory: "much" },
      { auto_archive_seconds: 5 },
    ])
      expect(await rock("/start", { ...start, ...wrong })).toMatchObject({ status: "Failed", result: { code: 4000 } });
    for (const path of [`/sandboxes/${id}/archive`, "/commit", `/sandboxes/${id}/proxy/x`])
      expect(await rock(path, {})).toMatchObject({ status: "Failed", result: { code: 4000 } });
    expect(await rock("/execute", { sandbox_id: "nobody", command: "x" })).toMatchObject({
      result: { code: 4000 },
      error: "Sandbox nobody not found",
    });
  });

  test("stopped with auto_delete_seconds 0, it is gone", async () => {
    const { result } = await rock("/start_async", { ...start, auto_delete_seconds: 0, sandbox_id: "brief" });
    expect(result.sandbox_id).toBe("brief");
    expect((await rock("/get_status?sandbox_id=brief")).result.is_alive).toBe(true);
    await rock("/stop", { sandbox_id: "brief" });
    expect((await rock("/get_status?sandbox_id=brief&include_all_states=true")).result.state).toBe("deleted");
    await rock("/stop", { sandbox_id: id });
    expect((await rock("/delete", { sandbox_id: id })).result).toBe(`${id} deleted`);
  });
});

describe("GEM", () => {
  const gem = (name: string, body: unknown) => call("POST", `/apis/v1/envs/gem/${name}`, body);

  test("an episode that is solved scores 1 at its end", async () => {
    const { json } = await gem("make", { env_id: HELLO });
    const name = json.sandbox_id as string;
    const first = (await gem("reset", { sandbox_id: name, seed: 3 })).json;
    expect(first.observation.length).toBeGreaterThan(5);
    expect(first.info).toMatchObject({ split: "train", max_turns: 3 });
    const task = loadSuite(HELLO).render("hello", "train", 3);
    const solve = new TextDecoder().decode(task.solution.find(({ path }) => path === "solve.sh")?.content);
    const step = (await gem("step", { sandbox_id: name, action: solve })).json;
    expect(step).toMatchObject({ reward: 0, terminated: false, truncated: false, info: { exit_code: 0 } });
    expect((await gem("step", { sandbox_id: name, action: "done" })).json).toMatchObject({
      ...{ reward: 1, terminated: true, truncated: false, info: { stop_reason: "done", grading: { error: null } } },
    });
    const over = await gem("step", { sandbox_id: name, action: "ls" });
    expect([over.status, over.json.error.message]).toEqual([400, expect.stringContaining("is over")]);
    await gem("reset", { sandbox_id: name });
    for (const turn of [1, 2])
      expect((await gem("step", { sandbox_id: name, action: "true" })).json.info.turn).toBe(turn);
    expect((await gem("step", { sandbox_id: name, action: "echo last" })).json).toMatchObject({
      ...{ observation: "last\n", reward: 0, terminated: false, truncated: true, info: { stop_reason: "turns" } },
    });
    expect((await gem("close", { sandbox_id: name })).json).toEqual({ sandbox_id: name });
    expect((await gem("close", { sandbox_id: name })).status).toBe(400);
    expect(sandboxes.list()).toEqual([]);
  });

  test("what is no environment is said", async () => {
    expect((await gem("make", { env_id: "no/such" })).status).toBe(400);
    expect((await gem("make", {})).status).toBe(400);
    expect((await gem("step", { sandbox_id: "x", action: "ls" })).status).toBe(400);
  });
});
