import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Hono } from "hono";
import { AleError } from "../core/errors.ts";
import { serve } from "./serve.ts";
import { loadToken, tokensMatch } from "./token.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ale-serve-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function failure(work: () => unknown): AleError {
  try {
    work();
  } catch (error) {
    if (error instanceof AleError) return error;
    throw error;
  }
  throw new Error("nothing went wrong");
}

test("port 0 picks a free one, and a port in use is named with the next step", async () => {
  const app = new Hono().get("/", (c) => c.text("here"));
  await using service = serve(app, { port: 0 });
  expect(service.port).toBeGreaterThan(0);
  expect(await (await fetch(service.url)).text()).toBe("here");
  const { code, message, hint } = failure(() => serve(app, { port: service.port, portOption: "--service.port" }));
  expect([code as string, message]).toEqual(["service", `port ${service.port} of 127.0.0.1 is in use`]);
  expect(hint).toContain("--service.port 0 picks a free one");
  await service.close();
  expect(await fetch(service.url).catch(() => "closed")).toBe("closed");
});

test("the token is random, kept, and only its owner's to read", () => {
  const path = join(folder, "state", "token");
  const token = loadToken(path);
  expect(token).toMatch(/^[\w-]{43}$/);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  chmodSync(path, 0o644);
  expect(loadToken(path)).toBe(token);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(loadToken(join(folder, "other"))).not.toBe(token);
});

test("a token file that is a link or empty is refused", () => {
  const target = join(folder, "target");
  writeFileSync(target, "x".repeat(43));
  symlinkSync(target, join(folder, "link"));
  expect(failure(() => loadToken(join(folder, "link"))).message).toContain("is not a file of this user");
  writeFileSync(join(folder, "empty"), "\n");
  expect(failure(() => loadToken(join(folder, "empty"))).message).toContain("holds no token");
});

test("tokens match only when they are equal", () => {
  expect(tokensMatch("abc", "abc")).toBe(true);
  for (const other of ["", "ab", "abcd", "abd", "ABC"]) expect(tokensMatch(other, "abc")).toBe(false);
});
