/** An operator's cap on the network holds, whatever requests, tasks and archives say. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadExperiment } from "../../src/config/load.ts";
import { loadTasks } from "../../src/experiment/suites.ts";
import { NetworkCap, SERVICE_CAP } from "../../src/sandbox/network/network-cap.ts";
import { openApi, type TestApi } from "./api-support.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-cap-"));
let api: TestApi;
beforeAll(async () => {
  api = await openApi(new NetworkCap({ mostNetwork: "allowlist", networkHosts: ["*.allowed.test"] }, SERVICE_CAP));
});
afterAll(async () => {
  await api?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** A suite of one task whose `task.toml` ends with `tables`. */
function suite(name: string, tables: string): string {
  const path = join(folder, name, "task");
  mkdirSync(join(path, "tests"), { recursive: true });
  writeFileSync(join(path, "task.toml"), `version = "1.0"\n[environment]\nprofile = "host"\n${tables}`);
  writeFileSync(join(path, "instruction.md"), "Do it.");
  writeFileSync(join(path, "tests/test.sh"), "echo 1 > /logs/verifier/reward.txt");
  return join(folder, name);
}

const PUBLIC = suite("open", '[agent]\nnetwork_mode = "public"\n');
const LISTED = suite(
  "listed",
  '[verifier]\nnetwork_mode = "allowlist"\nallowed_hosts = ["a.allowed.test", "evil.test"]\n',
);

test("requests", async () => {
  const make = (network: object) => api.call("POST", "/v1/sandboxes", { memoryMb: 64, diskMb: 16, network });
  const open = await make({ mode: "public" });
  expect(open.status).toBe(400);
  expect(open.json.error.message).toBe(
    'the request: network.mode asks for "public", and --most-network allows "allowlist" at most',
  );
  expect((await make({ mode: "allowlist", allow: ["b.allowed.test", "10.0.0.1"] })).json.error.message).toContain(
    'network.allow lists "10.0.0.1", and --network-host allows *.allowed.test only',
  );
  expect((await api.call("GET", "/v1/sandboxes")).json.sandboxes).toEqual([]);
  const { status, json } = await make({ mode: "allowlist", allow: ["b.allowed.test:443"] });
  expect(status).toBe(201);
  const change = (network: object) => api.call("PUT", `/v1/sandboxes/${json.id}/network`, network);
  expect((await change({ mode: "public" })).status).toBe(400);
  expect((await change({ mode: "allowlist", allow: ["*.test"] })).status).toBe(400);
  expect((await change({ mode: "none" })).status).toBe(200);
});

test("tasks: of GEM, and of an experiment, which ends before it begins", async () => {
  const gem = (suite: string) => api.call("POST", "/apis/v1/envs/gem/make", { env_id: suite });
  expect(JSON.stringify((await gem(PUBLIC)).json)).toContain('agent.network_mode asks for \\"public\\"');
  expect(JSON.stringify((await gem(LISTED)).json)).toContain('verifier.allowed_hosts lists \\"evil.test\\"');
  const load = (suite: string, ...overrides: string[]) =>
    loadTasks(loadExperiment({ files: [], overrides: [`tasks.suite=${suite}`, ...overrides] }).experiment);
  const capped = ["sandbox.mostNetwork=allowlist", 'sandbox.networkHosts=["*.allowed.test"]'];
  expect(() => load(PUBLIC, ...capped)).toThrow(
    `${PUBLIC}/task/task.toml: agent.network_mode asks for "public", and sandbox.mostNetwork allows "allowlist" at most`,
  );
  expect(() => load(LISTED, ...capped)).toThrow(
    `${LISTED}/task/task.toml: verifier.allowed_hosts lists "evil.test", and sandbox.networkHosts allows *.allowed.test only`,
  );
  expect(() => load(LISTED, "sandbox.mostNetwork=none")).toThrow('sandbox.mostNetwork allows "none" at most');
  for (const path of [PUBLIC, LISTED]) expect(load(path).families).toEqual(["task"]); // no cap unless somebody sets one
  expect(() => load(LISTED, 'sandbox.networkHosts=["evil.test"]')).toThrow("sandbox.networkHosts");
});
