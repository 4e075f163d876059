import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createApp } from "../api/app.ts";
import { type Service, serve } from "../api/serve.ts";
import { runServiceFile } from "../config/paths.ts";
import { openStore, type Store } from "../store/store.ts";
import { runCli } from "./program.ts";

let folder: string;
let store: Store;
let service: Service;
const ids: Record<string, string> = {};
const now = Date.now();
const WAITS = [
  { who: "run", forWhat: "collect, step 3", since: now - 90_000, deadline: null },
  { who: "sandbox s7", forWhat: "a command in sandbox s7", since: now - 4000, deadline: now + 60_000 },
  { who: "sandbox s8", forWhat: "a command in sandbox s8", since: now - 3000, deadline: now + 30_000 },
];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale-doctor-run-"));
  store = await openStore(join(folder, "ale.db"));
  for (const name of ["served", "silent", "ended"]) {
    ids[name] = await store.createRun({
      ...{ name, algorithm: "grpo", seed: 1, configToml: "", configHash: name, outDir: join(folder, name) },
      ...{ isolation: "none", steps: 9, aleVersion: "0" },
    });
  }
  await store.endRun(ids.ended as string, "finished");
  service = serve(createApp({ store, token: "0123456789", listWaits: () => WAITS }), { port: 0 });
  // The second one is left from a process that was killed.
  writeService("served", process.pid);
  writeService("silent", 1);
});
afterAll(async () => {
  await service[Symbol.asyncDispose]();
  await store.close();
  rmSync(folder, { recursive: true, force: true });
});

function writeService(name: string, pid: number): void {
  const file = runServiceFile(join(folder, name));
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify({ pid, url: service.url }));
}

async function doctor(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const texts = { out: "", err: "" };
  const sink = (name: keyof typeof texts) => ({
    write: (text: string) => {
      texts[name] += text;
    },
  });
  const all = ["doctor", ...argv, "--store", join(folder, "ale.db")];
  const code = await runCli(all, { stdout: sink("out"), stderr: sink("err"), env: {} });
  return { code, ...texts };
}

test("--run --json hands on what the run's process lists", async () => {
  const { code, out } = await doctor("--run", ids.served as string, "--json");
  expect(code).toBe(0);
  expect(JSON.parse(out)).toMatchObject({ run: ids.served, pid: process.pid, waiting: WAITS });
});

test("people see groups, the longest wait first", async () => {
  const { out } = await doctor("--run", join(folder, "served"));
  const [title, head, ...lines] = out.trimEnd().split("\n");
  expect(title).toBe(`${ids.served}, process ${process.pid}: 3 waits`);
  expect(head).toMatch(/^who waits +for what +since +at most$/);
  expect(lines).toHaveLength(2);
  expect(lines[0]).toMatch(/^run +collect, step 3 +1 min 3\d s$/);
  expect(lines[1]).toMatch(/^sandbox s7 and 1 more +a command in sandbox s7 +[\d.]+ s +2\d\.\d s$/);
});

test("a run that nobody works on, or that has no service, says so", async () => {
  const ended = await doctor("--run", ids.ended as string);
  expect(ended.code).toBe(2);
  expect(ended.err).toContain(`run ${ids.ended} is finished: no process works on it`);
  const silent = await doctor("--run", ids.silent as string);
  expect(silent.code).toBe(2);
  expect(silent.err).toContain("was started without its service");
});
