import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@libsql/client/sqlite3";
import { AleError } from "../src/core/errors.ts";
import { STORE_VERSION } from "../src/store/connection.ts";
import { openStore, type Store } from "../src/store/store.ts";
import { sampleTrajectory } from "./sample-run.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ale-store-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The error that `work` ends with, whose code must be the given one. */
async function failure(code: string, work: Promise<unknown>): Promise<AleError> {
  const error = await work.then(
    () => new Error("nothing went wrong"),
    (cause) => cause,
  );
  if (!(error instanceof AleError)) throw error;
  expect(error.code as string).toBe(code);
  return error;
}

async function execute(path: string, ...statements: string[]): Promise<void> {
  const client = createClient({ url: `file:${path}`, concurrency: 1 });
  for (const statement of statements) await client.execute(statement);
  client.close();
}

const createRun = (store: Store, name = "x") =>
  store.createRun({
    ...{ name, algorithm: "grpo", seed: 1, configToml: "", configHash: name, outDir: "/x", isolation: "none" },
    ...{ steps: 1, aleVersion: "0" },
  });

const trajectories = (prefix: string, count: number) =>
  Array.from({ length: count }, (_, member) =>
    sampleTrajectory({
      ...{ id: `${prefix}/${member}`, group: prefix, member, family: "f", split: "train", seed: 1, solved: true },
      ...{ version: 0, turns: 2, tokensPerTurn: 20 },
    }),
  );

test("a file that is no database is named and left as it is", async () => {
  const path = join(folder, "text.db");
  writeFileSync(path, "dear diary\n".repeat(500));
  for (const mode of ["write", "read"] as const) {
    const error = await failure("store", openStore(path, { mode }));
    expect(error.message).toBe(`${path} is not a database`);
    expect(error.hint).toContain("--store");
  }
  expect(readFileSync(path, "utf8")).toBe("dear diary\n".repeat(500));
  expect(existsSync(`${path}-wal`)).toBe(false);
});

test("a database of another program is left as it is", async () => {
  const path = join(folder, "foreign.db");
  await execute(path, "CREATE TABLE photos (id INTEGER)");
  const before = readFileSync(path);
  const error = await failure("store", openStore(path));
  expect(error.message).toContain("another program");
  expect(readFileSync(path).equals(before)).toBe(true);
});

test("a store of a newer version names both versions and is left as it is", async () => {
  const path = join(folder, "newer.db");
  await (await openStore(path)).close();
  await execute(path, `PRAGMA user_version = ${STORE_VERSION + 1}`, "PRAGMA wal_checkpoint(TRUNCATE)");
  const before = readFileSync(path);
  for (const mode of ["write", "read"] as const) {
    const { message, hint } = await failure("store", openStore(path, { mode }));
    expect(message).toContain(`${path} has tables of version ${STORE_VERSION + 1}`);
    expect(message).toContain(`up to ${STORE_VERSION}`);
    expect(hint).toContain("newer ale");
  }
  expect(readFileSync(path).equals(before)).toBe(true);
});

test("a damaged store is named with what to do", async () => {
  const path = join(folder, "damaged.db");
  const store = await openStore(path);
  const run = await createRun(store);
  await store.writeEpisodes(run, 1, "train", trajectories(`${run}/1`, 300));
  await store.close();
  const bytes = readFileSync(path);
  bytes.fill(0x5a, 4096, bytes.length);
  writeFileSync(path, bytes);
  const work = async () => {
    await using damaged = await openStore(path, { mode: "read" });
    await damaged.listRuns();
  };
  const { message, hint } = await failure("store", work());
  expect(message).toContain(`${path} is damaged`);
  expect(hint).toContain(".recover");
});

test("reading where there is no store says so and makes none", async () => {
  const path = join(folder, "missing.db");
  const { message, hint } = await failure("store", openStore(path, { mode: "read" }));
  expect(message).toBe(`there is no store at ${path}`);
  expect(hint).toContain("ale run");
  expect(existsSync(path)).toBe(false);
});

test("a folder that is not there or not writable is named", async () => {
  const missing = join(folder, "no", "such", "ale.db");
  expect((await failure("store", openStore(missing))).message).toContain(`${missing} cannot be opened for writing`);
  if (process.getuid?.() === 0) return; // root writes everywhere
  const locked = join(folder, "locked");
  mkdirSync(locked);
  chmodSync(locked, 0o500);
  const { message, hint } = await failure("store", openStore(join(locked, "ale.db")));
  expect(message).toContain("cannot be opened for writing");
  expect(hint).toContain(locked);
});

test("a store that another process holds is called locked after the wait", async () => {
  const path = join(folder, "busy.db");
  await using store = await openStore(path, { busyMs: 60 });
  const client = createClient({ url: `file:${path}`, concurrency: 1 });
  const transaction = await client.transaction("write");
  try {
    const { message, hint } = await failure("store", createRun(store));
    expect(message).toContain("locked by another process");
    expect(hint).toContain("fuser");
  } finally {
    await transaction.rollback();
    client.close();
  }
  await createRun(store);
});

test("a full disk loses nothing that was committed, and writing goes on when there is room", async () => {
  const path = join(folder, "full.db");
  const small = await openStore(path, { maxBytes: 1 << 20 });
  const run = await createRun(small);
  let written = 0;
  const fill = async () => {
    for (; written < 100; written++) {
      await small.writeEpisodes(run, written + 1, "train", trajectories(`${run}/${written + 1}`, 64));
      await small.commitStep(run, written + 1, { metrics: { a: 1 }, weightVersion: 1, wallSeconds: 1 });
    }
  };
  const { message, hint } = await failure("storage_full", fill());
  expect(message).toContain(`no space left for ${path}`);
  expect(hint).toContain("ale resume");
  expect(written).toBeGreaterThan(0);
  expect((await small.lastCommitted(run))?.step).toBe(written);
  await small.close();

  await using store = await openStore(path);
  expect((await store.lastCommitted(run))?.step).toBe(written);
  await store.truncateAfter(run, written);
  expect((await store.getRun(run)).episodes).toBe(written * 64);
  await store.writeEpisodes(run, written + 1, "train", trajectories(`${run}/${written + 1}`, 64));
});

test("after close, and when the thread is gone, calls fail instead of waiting", async () => {
  const store = await openStore(join(folder, "closed.db"));
  await store.close();
  expect((await failure("store", createRun(store))).message).toContain("it was closed");
  await store.close();
});

test("another process's run cannot be taken over while that process lives", async () => {
  const path = join(folder, "claim.db");
  await using store = await openStore(path);
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "store-child.ts"), path, "hold"], {
    stdout: "pipe",
    stderr: "inherit",
  });
  try {
    const reader = child.stdout.getReader();
    const run = new TextDecoder().decode((await reader.read()).value).trim();
    expect((await store.getRun(run)).status).toBe("running");
    expect(await store.findProcess(run)).toBe(child.pid);
    const { message, hint } = await failure("store", store.claimRun(run));
    expect(message).toContain(`by process ${child.pid}`);
    expect(hint).toContain(`kill ${child.pid}`);
    child.kill("SIGKILL");
    await child.exited;
    expect(await store.getRun(run)).toMatchObject({ status: "interrupted", reason: "its process is gone" });
    await store.claimRun(run);
    expect(await store.findProcess(run)).toBe(process.pid);
  } finally {
    child.kill("SIGKILL");
  }
});

test("several processes may open a new store at once and write to it together", async () => {
  const path = join(folder, "together.db");
  const children = Array.from({ length: 5 }, () =>
    Bun.spawn([process.execPath, join(import.meta.dir, "store-child.ts"), path, "write"], { stderr: "inherit" }),
  );
  expect(await Promise.all(children.map((child) => child.exited))).toEqual([0, 0, 0, 0, 0]);
  await using store = await openStore(path, { mode: "read" });
  const runs = await store.listRuns();
  expect(runs).toHaveLength(5);
  for (const run of runs)
    expect(run).toMatchObject({ committedStep: 20, episodes: 20 * 6 + 2 * 12, status: "finished" });
});

test("a store in use keeps its lock: no other process takes the write-ahead log away", async () => {
  const path = join(folder, "shared.db");
  await using store = await openStore(path);
  const run = await createRun(store);
  // Opened once more in this process, as a second face of it does: the lock must outlive that.
  await using reader = await openStore(path, { mode: "read" });
  // Whoever wants the file for itself, as SQLite does to fold the log in and remove it when the last user leaves, must not get it.
  const script = `const db = new (require("bun:sqlite").Database)(process.argv[1]);
    db.run("PRAGMA locking_mode = EXCLUSIVE");
    try { console.log(db.query("SELECT count(*) AS runs FROM runs").get().runs); } catch (error) { console.log(error.code); }`;
  const other = Bun.spawnSync([process.execPath, "-e", script, path]);
  expect(other.stdout.toString().trim()).toBe("SQLITE_BUSY");
  expect(existsSync(`${path}-wal`)).toBe(true);
  await store.endRun(run, "finished");
  expect((await reader.getRun(run)).status).toBe("finished");
});
