/**
 * Connections to the store's file. Each is a client with exactly one connection: the driver otherwise keeps a pool, to
 * whose other members no PRAGMA applies. And there is one writer per process: SQLite before 3.51.3 (this driver brings
 * 3.45.1) can damage a WAL that two connections reset at once.
 */

import { existsSync, openSync, readSync, statSync } from "node:fs";
import { type Client, createClient, type Transaction } from "@libsql/client/sqlite3";
import type { LibSQLDatabase } from "drizzle-orm/libsql";
import { drizzle } from "drizzle-orm/libsql/sqlite3";
import { AleError } from "../core/errors.ts";
import { describeDatabaseError } from "./database-errors.ts";
import { readMigrations } from "./migrations.macro.ts" with { type: "macro" };
import type { Migration } from "./migrations.macro.ts";

const MIGRATIONS: readonly Migration[] = readMigrations();

/** Version of the tables this code knows: the number of migrations. Kept in the file as `user_version`. */
export const STORE_VERSION = MIGRATIONS.length;
/** `application_id` of our files: "AleS" in ASCII. */
const APPLICATION_ID = 0x416c6553;
const SQLITE_MAGIC = "SQLite format 3\0";
/**
 * Pages in the write-ahead log before it is folded into the file: four times SQLite's default, since pages that change
 * with every batch are then written (and synchronised) a quarter as often.
 */
const CHECKPOINT_PAGES = 4000;
/** How long a statement waits for the lock of another process. */
const BUSY_MS = 10_000;

export interface Connection {
  readonly path: string;
  readonly client: Client;
  readonly database: LibSQLDatabase;
}

/** An open write transaction, for SQL of our own and for drizzle. */
export interface WriteTransaction {
  readonly raw: Transaction;
  readonly database: LibSQLDatabase;
}

export interface WriterSettings {
  /** Survive a power failure without losing the last second, at the price of an fsync per commit. */
  readonly durable: boolean;
  /** Largest size of the file in bytes; writing more fails like a full disk. */
  readonly maxBytes?: number;
  readonly busyMs?: number;
}

function connect(path: string, busyMs: number): Connection {
  const url = `file:${path.split("/").map(encodeURIComponent).join("/")}`;
  const client = createClient({ url, timeout: busyMs, concurrency: 1 });
  return { path, client, database: drizzle(client) };
}

/**
 * Opens the writing connection, making or migrating the file.
 * @throws AleError("store") when the file is no store, damaged, newer than this code, locked or not writable;
 * AleError("storage_full").
 */
export async function openWriter(path: string, settings: WriterSettings): Promise<Connection> {
  refuseForeignFile(path);
  let connection: Connection | undefined;
  try {
    connection = connect(path, settings.busyMs ?? BUSY_MS);
    const { client } = connection;
    await checkVersion(connection);
    await client.execute("PRAGMA journal_mode = WAL");
    await client.execute(`PRAGMA synchronous = ${settings.durable ? "FULL" : "NORMAL"}`);
    await client.execute("PRAGMA foreign_keys = ON");
    await client.execute(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    if (settings.maxBytes !== undefined) await limitSize(client, settings.maxBytes);
    await migrate(connection);
    return connection;
  } catch (error) {
    connection?.client.close();
    throw describeDatabaseError(error, path, "opening the store");
  }
}

/**
 * Opens a connection that cannot write.
 * @throws AleError("store") as `openWriter`, and when there is no file or its tables are older than this code.
 */
export async function openReader(path: string, busyMs = BUSY_MS): Promise<Connection> {
  if (!existsSync(path)) {
    throw new AleError("store", `there is no store at ${path}`, {
      hint: "nothing has been run yet (ale run experiments/shell.toml), or it is elsewhere: --store FILE",
    });
  }
  refuseForeignFile(path);
  let connection: Connection | undefined;
  try {
    connection = connect(path, busyMs);
    await checkVersion(connection);
    await connection.client.execute("PRAGMA query_only = ON");
    return connection;
  } catch (error) {
    connection?.client.close();
    throw describeDatabaseError(error, path, "opening the store");
  }
}

/** Runs `work` in one write transaction: everything it wrote is committed, or nothing when it throws. */
export async function inTransaction<T>(
  { client }: Connection,
  work: (transaction: WriteTransaction) => Promise<T>,
): Promise<T> {
  const raw = await client.transaction("write");
  try {
    // drizzle asks no more of a client than `execute`, which a transaction has as well.
    const result = await work({ raw, database: drizzle(raw as unknown as Client) });
    await raw.commit();
    return result;
  } finally {
    raw.close();
  }
}

/** Are the tables of this file older than this code? */
export async function needsMigration(connection: Connection): Promise<boolean> {
  return (await pragma(connection.client, "user_version")) < STORE_VERSION;
}

/**
 * Looks at the first bytes before SQLite does, which would treat some foreign files as empty databases.
 *
 * The descriptor stays open, one per file: when a process closes any descriptor of a file, POSIX takes away all locks that
 * it holds on it. SQLite would not notice, and another process would take itself for the last user of the store: it folds in
 * and removes the write-ahead log that this process goes on writing to.
 */
function refuseForeignFile(path: string): void {
  if (!existsSync(path)) return;
  const head = Buffer.alloc(SQLITE_MAGIC.length);
  let length: number;
  try {
    length = readSync(descriptorOf(path), head, 0, head.length, 0);
  } catch (cause) {
    throw new AleError("store", `${path} cannot be read: ${cause instanceof Error ? cause.message : cause}`, {
      hint: "check its permissions, or give another file with --store FILE",
      cause,
    });
  }
  if (length === 0 || head.toString("latin1") === SQLITE_MAGIC) return;
  throw new AleError("store", `${path} is not a database`, {
    hint: "it was left as it is; give another file with --store FILE, or move this one away",
  });
}

/** Descriptors by device and inode, which an open file keeps from being given to another. */
const descriptors = new Map<string, number>();

function descriptorOf(path: string): number {
  const { dev, ino } = statSync(path, { bigint: true });
  const file = `${dev}:${ino}`;
  const known = descriptors.get(file);
  if (known !== undefined) return known;
  const opened = openSync(path, "r");
  descriptors.set(file, opened);
  return opened;
}

/** Refuses files that are not ours or newer than we are, before anything is written to them. */
async function checkVersion({ client, path }: Connection): Promise<void> {
  const version = await pragma(client, "user_version");
  const id = await pragma(client, "application_id");
  const { rows } = await client.execute("SELECT count(*) AS tables FROM sqlite_schema WHERE type = 'table'");
  const empty = Number(rows[0]?.tables ?? 0) === 0 && version === 0;
  if (id !== APPLICATION_ID && !empty) {
    throw new AleError("store", `${path} is a database of another program`, {
      hint: "it was left as it is; give another file with --store FILE",
    });
  }
  if (version > STORE_VERSION) {
    throw new AleError(
      "store",
      `${path} has tables of version ${version}; this ale knows versions up to ${STORE_VERSION}`,
      { hint: "it was left as it is; use the newer ale that made it, or start another store with --store FILE" },
    );
  }
}

/** Brings the tables to the current version in one transaction; whoever else opens the file at the same time waits. */
async function migrate(connection: Connection): Promise<void> {
  if ((await pragma(connection.client, "user_version")) === STORE_VERSION) return;
  await inTransaction(connection, async ({ raw }) => {
    const version = await pragma(raw, "user_version");
    if (version > STORE_VERSION) {
      throw new AleError("store", `${connection.path} was migrated to version ${version} just now`);
    }
    for (const { statements } of MIGRATIONS.slice(version)) {
      for (const statement of statements) await raw.execute(statement);
    }
    await raw.execute(`PRAGMA application_id = ${APPLICATION_ID}`);
    await raw.execute(`PRAGMA user_version = ${STORE_VERSION}`);
  });
}

async function limitSize(client: Client, maxBytes: number): Promise<void> {
  const page = await pragma(client, "page_size");
  await client.execute(`PRAGMA max_page_count = ${Math.max(1, Math.floor(maxBytes / page))}`);
}

async function pragma(client: Client | Transaction, name: string): Promise<number> {
  const { rows } = await client.execute(`PRAGMA ${name}`);
  return Number(rows[0]?.[0] ?? 0);
}
