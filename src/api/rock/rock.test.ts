import { expect, test } from "bun:test";
import { Hono } from "hono";
import { z } from "zod";
import { AleError } from "../../core/errors.ts";
import { largestSandbox } from "../../sandbox/service/capacity.ts";
import { answer, Code, parseBody, RockError, success } from "./envelope.ts";
import { ImageNames, parseSize, StartRequest, toCreateRequest } from "./start-request.ts";
import { decodeBackslash, decodeFile, quoted, sessionText } from "./text.ts";

test.each([
  ["8g", 2 ** 33],
  ["512M", 2 ** 29],
  ["1.5Gi", 1.5 * 2 ** 30],
  ["64mb", 2 ** 26],
  ["1024", 1024],
])("%s is %d bytes", (text, bytes) => {
  expect(parseSize("memory", text)).toBe(bytes);
});

test.each(["", "much", "-1g", "8x", "0"])("%j is no size", (text) => {
  expect(() => parseSize("memory", text)).toThrow(RockError);
});

const HOST = { profile: "host", workdir: undefined };

test("a request is given ROCK's defaults, and no more than the machine has", () => {
  const request = StartRequest.parse({ image: " host " });
  expect(request).toMatchObject({
    image: "host",
    memory: "8g",
    cpus: 2,
    disk: "50G",
    pull: "missing",
    image_os: "linux",
  });
  const headers: Record<string, string> = { "x-user-id": "me" };
  const made = toCreateRequest(request, HOST, (name) => headers[name]);
  const most = largestSandbox();
  expect(made.environment.memoryBytes).toBe(Math.min(2 ** 33, most.memoryBytes));
  expect(made.environment.cpus).toBe(Math.min(2, most.cpus));
  expect(made.environment.diskBytes).toBeLessThanOrEqual(most.diskBytes);
  expect(made).toMatchObject({
    ttl: {},
    queueMs: 600_000,
    labels: { image: "host", user_id: "me", namespace: "default" },
  });
  const timed = StartRequest.parse({
    image: "host",
    auto_clear_time_minutes: 5,
    auto_delete_seconds: 0,
    startup_timeout: 1e6,
  });
  expect(toCreateRequest({ ...timed, auto_archive_seconds: 7 }, HOST, () => undefined).ttl).toEqual({
    ...{ idleMs: 300_000, archiveMs: 7000 },
  });
  expect(toCreateRequest(timed, HOST, () => undefined)).toMatchObject({
    ttl: { idleMs: 300_000, stoppedMs: 0 },
    queueMs: 1_800_000,
  });
});

test("images are profiles, or what the operator lets stand for them", async () => {
  expect(await new ImageNames().find("host")).toEqual(HOST);
  await expect(new ImageNames().find("python:3.11")).rejects.toThrow("--sandbox-image 'python:3.11=host'");
  expect(await new ImageNames(new Map([["python:3.11", "host"]])).find("python:3.11")).toEqual(HOST);
  expect(await new ImageNames(new Map([["*", "host"]])).find("any")).toEqual(HOST);
  await expect(new ImageNames(new Map([["*", "none"]])).find("any")).rejects.toThrow("there is no image");
});

const bytes = (...values: number[]) => new Uint8Array(values);

test("bytes that are no text are shown as Python shows them", () => {
  expect(decodeBackslash(new TextEncoder().encode("ä漢🙂\n"))).toBe("ä漢🙂\n");
  expect(decodeBackslash(bytes(97, 0xff, 0xc3, 0xa4, 0xc3, 98, 0xf0, 0x9f))).toBe("a\\xffä\\xc3b\\xf0\\x9f");
  expect(sessionText(new TextEncoder().encode("\x1b[31m red \x1b[0m\n\n"))).toBe("red");
  expect(quoted('it\'s "a"\n')).toBe("'it\\'s \"a\"\\n'");
});

test("files are decoded as asked for, or not at all", () => {
  expect(decodeFile(bytes(0xe4), "latin-1", null)).toBe("ä");
  expect(() => decodeFile(bytes(0xe4), null, null)).toThrow("cannot be read as utf-8");
  expect(decodeFile(bytes(0xe4, 97), null, "ignore")).toBe("a");
  expect(decodeFile(bytes(0xe4, 97), null, "replace")).toBe("\ufffda");
  expect(() => decodeFile(bytes(97), "no-such-encoding", null)).toThrow("cannot be read as no-such-encoding");
});

test("errors come in the envelope, with ROCK's codes", async () => {
  const app = new Hono();
  const fail = (path: string, error: Error) =>
    app.post(path, (c) =>
      answer(c, "it failed", async () => {
        throw error;
      }),
    );
  fail("/command", new RockError(Code.command, "no"));
  fail("/usage", new AleError("usage", "wrong"));
  fail("/sandbox", new AleError("sandbox", "broken"));
  fail("/other", new Error("strange"));
  app.post("/body", (c) =>
    answer(c, "it failed", async () => success(await parseBody(c, z.object({ a: z.number() })))),
  );
  const post = async (path: string, body = "{}") => (await app.request(path, { method: "POST", body })).json();
  const failed = (error: string, result: unknown) => ({ status: "Failed", message: "it failed", error, result });
  expect(await post("/command")).toEqual(failed("no", { code: 6000, exit_code: -1, failure_reason: "no" }));
  expect(await post("/usage")).toEqual(failed("wrong", { code: 4000, exit_code: null, failure_reason: "wrong" }));
  expect(await post("/sandbox")).toEqual(failed("broken", { code: 5000, exit_code: null, failure_reason: "broken" }));
  expect(await post("/other")).toEqual(failed("strange", null));
  expect(await post("/body", "{")).toMatchObject({ message: "invalid parameter", error: "body: JSON decode error" });
  expect(await post("/body", '{"a": "x"}')).toMatchObject({ error: expect.stringContaining("body.a: "), result: null });
  expect(await post("/body", '{"a": 1}')).toEqual({ status: "Success", message: null, error: null, result: { a: 1 } });
});
