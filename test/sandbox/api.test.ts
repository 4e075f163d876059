/** `/v1/sandboxes` over real sandboxes. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { encodeFiles } from "../../src/sandbox/protocol.ts";
import { archiveToTar } from "../../src/sandbox/tar.ts";
import { type Json, openApi, type TestApi, TOKEN } from "./api-support.ts";
import { file, until } from "./support.ts";

let api: TestApi;
beforeAll(async () => {
  api = await openApi();
});
afterAll(() => api?.[Symbol.asyncDispose]());
const call: TestApi["call"] = (method, path, body) => api.call(method, path, body);

test("nothing of a sandbox is told without the token", async () => {
  for (const path of ["/v1/sandboxes", "/v1/sandboxes/x/log", "/apis/envs/sandbox/v1/sandboxes"])
    expect((await fetch(api.url + path)).status).toBe(401);
  const gem = await fetch(`${api.url}/apis/v1/envs/gem/make`, { method: "POST", body: "{}" });
  expect(gem.status).toBe(401);
  const withPassword = await fetch(`${api.url}/v1/sandboxes`, {
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

  test("a part that is not there, and a state in which it cannot be done, have answers of their own", async () => {
    for (const path of ["/shells/none/interrupt", "/terminals/9/input"])
      expect([path, (await call("POST", at(path))).status]).toEqual([path, 404]);
    expect((await call("GET", at("/commands/c99"))).status).toBe(404);
    expect((await call("POST", at("/pause"))).status).toBe(200);
    expect(await call("POST", at("/exec"), { command: "true" })).toMatchObject({
      ...{ status: 409, json: { error: { message: expect.stringContaining("is paused"), hint: "resume it first" } } },
    });
    expect((await call("POST", at("/resume"))).status).toBe(200);
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
    await Bun.write(join(api.folder, "back.tar"), back);
    expect(Bun.spawnSync(["tar", "-xOf", join(api.folder, "back.tar"), "x/y", "z"]).stdout.toString()).toBe("deepflat");
  });

  test("life: pause, stop, restart, fork, statistics, log", async () => {
    expect((await call("POST", at("/pause"))).json.state).toBe("paused");
    expect((await call("POST", at("/pause"))).status).toBe(409);
    expect((await call("POST", at("/resume"))).json.state).toBe("running");
    expect((await call("GET", at("/statistics"))).json.diskBytes).toBeGreaterThan(0);
    const forked = await call("POST", at("/fork"), { id: "forked" });
    expect([forked.status, forked.json.sandbox.id]).toEqual([201, "forked"]);
    expect((await call("DELETE", "/v1/sandboxes/forked")).status).toBe(204);
    expect((await call("POST", at("/stop"))).json).toMatchObject({
      state: "stopped",
      actions: ["restart", "delete", "archive"],
    });
    expect((await call("POST", at("/exec"), { command: "true" })).status).toBe(409);
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

  test("snapshots, images and archives", async () => {
    const other = (await call("POST", "/v1/sandboxes", { ...small, id: "other" })).json.id;
    const own = (path: string) => `/v1/sandboxes/${other}${path}`;
    await call("PUT", own("/files?path=f"), new TextEncoder().encode("one"));
    expect(await call("POST", own("/snapshots"), { name: "snap" })).toMatchObject({
      ...{ status: 201, json: { name: "snap", sandbox: other, lostProcesses: 0, freshShells: [] } },
    });
    expect((await call("POST", own("/snapshots"), { name: "snap" })).status).toBe(400);
    await call("PUT", own("/files?path=f"), new TextEncoder().encode("two"));
    const read = async (id: string) =>
      new TextDecoder().decode((await call("GET", `/v1/sandboxes/${id}/files?path=f`)).bytes);
    const child = (await call("POST", "/v1/sandboxes", { ...small, snapshot: "snap" })).json.id;
    expect([await read(child), await read(other)]).toEqual(["one", "two"]);
    expect((await call("GET", own("/snapshots"))).json.snapshots).toMatchObject([{ name: "snap" }]);
    expect((await call("GET", "/v1/snapshots")).json.frozenBytes).toBeGreaterThan(0);

    expect(await call("POST", own("/commit"), { image: "made/by:api" })).toMatchObject({
      ...{ status: 201, json: { name: "made/by:api", base: "profile:host", workdir: "/work", source: other } },
    });
    const name = encodeURIComponent("made/by:api");
    const fromImage = await call("POST", "/v1/sandboxes", { ...small, image: "made/by:api" });
    expect([fromImage.json.image, await read(fromImage.json.id)]).toEqual(["made/by:api", "two"]);
    const tar = (await call("GET", `/v1/images/${name}/tar`)).bytes;
    expect(await call("PUT", "/v1/images/again?base=host", tar)).toMatchObject({ status: 201, json: { unpacked: 1 } });
    const again = await call("POST", "/v1/sandboxes", { ...small, image: "again" });
    expect(await read(again.json.id)).toBe("two");
    expect((await call("PUT", "/v1/images/bad", new Uint8Array(2048).fill(65))).status).toBe(400);
    for (const path of [own("/tar"), "/v1/snapshots/snap/tar"]) {
      await Bun.write(join(api.folder, "out.tar"), (await call("GET", path)).bytes);
      const out = Bun.spawnSync(["tar", "-xOf", join(api.folder, "out.tar"), "work/f"]).stdout.toString();
      expect(out).toBe(path.includes("snapshots") ? "one" : "two");
    }
    expect((await call("DELETE", `/v1/images/${name}`)).status).toBe(204);
    expect((await call("GET", `/v1/images/${name}`)).status).toBe(404);
    expect((await call("POST", "/v1/sandboxes", { ...small, image: "made/by:api" })).status).toBe(404);
    expect((await call("DELETE", "/v1/snapshots/snap")).status).toBe(204);
    expect((await call("POST", "/v1/sandboxes", { ...small, snapshot: "snap" })).status).toBe(404);

    expect((await call("POST", own("/archive"))).status).toBe(409);
    await call("POST", own("/stop"));
    expect((await call("POST", own("/archive"))).json).toMatchObject({
      state: "archived",
      actions: ["delete", "restore"],
    });
    expect((await call("POST", own("/restart"))).status).toBe(409);
    expect((await call("POST", own("/restore"))).json.state).toBe("running");
    expect(await read(other)).toBe("two");
    for (const id of [other, child, fromImage.json.id, again.json.id]) await call("DELETE", `/v1/sandboxes/${id}`);
  });
});
