/** ROCK's and GEM's surfaces over real sandboxes. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import { loadSuite } from "../../src/tasks/suite.ts";
import { type Json, openApi, type TestApi, TOKEN } from "./api-support.ts";
import { until } from "./support.ts";

const HELLO = resolve(import.meta.dir, "../../tasks/hello");

let api: TestApi;
beforeAll(async () => {
  api = await openApi();
});
afterAll(() => api?.[Symbol.asyncDispose]());
const call: TestApi["call"] = (method, path, body) => api.call(method, path, body);

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
    const response = await fetch(`${api.url}${BASE}/upload`, {
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
    for (const wrong of [{ image: "nonesuch" }, { num_gpus: 1 }, { image_os: "windows" }, { memory: "much" }])
      expect(await rock("/start", { ...start, ...wrong })).toMatchObject({ status: "Failed", result: { code: 4000 } });
    // It runs; only what is stopped can be archived.
    for (const path of [`/sandboxes/${id}/archive`, "/sandboxes/nobody/archive"])
      expect(await rock(path, {})).toMatchObject({ status: "Failed", result: { code: 4000 } });
    expect(await rock("/commit", { sandbox_id: "nobody", image_tag: "x" })).toMatchObject({ result: { code: 4000 } });
    expect(await rock("/execute", { sandbox_id: "nobody", command: "x" })).toMatchObject({
      result: { code: 4000 },
      error: "Sandbox nobody not found",
    });
  });

  test("archive, restore by restart, commit, and an image of it", async () => {
    const box = (await rock("/start", { ...start, auto_archive_seconds: 3600 })).result.sandbox_id;
    await rock("/write_file", { sandbox_id: box, path: "/work/f", content: "kept" });
    await rock("/stop", { sandbox_id: box });
    const status = async () => (await rock(`/get_status?sandbox_id=${box}&include_all_states=true`)).result;
    expect(await status()).toMatchObject({ state: "stopped", auto_delete_time: null });
    expect((await status()).auto_archive_time).toMatch(/^\d{4}-/);
    expect((await rock(`/sandboxes/${box}/archive`, {})).result).toBe(`${box} archiving`);
    await until("the archive", 20_000, async () => (await status()).state === "archived");
    expect((await status()).archive_time).toMatch(/^\d{4}-/);
    expect(await rock(`/get_status?sandbox_id=${box}`)).toMatchObject({ status: "Failed" });
    expect((await rock(`/sandboxes/${box}/restart`, {})).result.sandbox_id).toBe(box);
    expect((await status()).state_history.map((step: Json) => step.event)).toEqual([
      ...["alive", "stop", "archive", "archive_done", "restore", "alive"],
    ]);
    expect((await rock("/read_file", { sandbox_id: box, path: "/work/f" })).result.content).toBe("kept");
    const request = { sandbox_id: box, image_tag: "reg/made:1", username: "", password: "" };
    const { result } = await rock("/commit", request);
    expect(result).toMatchObject({ sandbox_id: box, image_tag: "reg/made:1", phase: "SUCCEEDED", exit_code: 0 });
    expect((await rock(`/commit/${box}`)).result).toEqual(result);
    expect(await rock("/commit/nobody")).toMatchObject({ status: "Failed" });
    const made = (await rock("/start", { ...start, image: "reg/made:1" })).result.sandbox_id;
    expect((await rock("/read_file", { sandbox_id: made, path: "/work/f" })).result.content).toBe("kept");
    for (const each of [box, made]) await rock("/stop", { sandbox_id: each });
    await rock(`/sandboxes/${box}/archive`, {});
    await until("the archive", 20_000, async () => (await status()).state === "archived");
    expect((await rock("/delete", { sandbox_id: box })).status).toBe("Success");
    await rock("/delete", { sandbox_id: made });
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
    expect(api.sandboxes.list()).toEqual([]);
  });

  test("what is no environment is said", async () => {
    expect((await gem("make", { env_id: "no/such" })).status).toBe(400);
    expect((await gem("make", {})).status).toBe(400);
    expect((await gem("step", { sandbox_id: "x", action: "ls" })).status).toBe(400);
  });
});
