/// <reference lib="webworker" />
/**
 * The one writer: a thread with the only writing connection of this process. Whatever waits when it gets to work goes into
 * one transaction, so that many small writes cost one commit.
 */

import { AleError, errorMessage } from "../core/errors.ts";
import { type Connection, inTransaction, openWriter } from "./connection.ts";
import { databaseCode, describeDatabaseError } from "./database-errors.ts";
import type { ErrorMessage, WriteOperation, WriterReply, WriterRequest } from "./operations.ts";
import { applyOperation } from "./writes.ts";

interface Waiting {
  readonly id: number;
  readonly operation: WriteOperation;
}

/** Operations per transaction: bounds how long readers see the old state and how much a failure repeats. */
const BATCH = 64;

declare const self: Worker;

let opened: Extract<WriterRequest, { type: "open" }> | undefined;
let connection: Connection | undefined;
let queue: Waiting[] = [];
let working = false;
let closing = false;

function reply(message: WriterReply, move: ArrayBuffer[] = []): void {
  self.postMessage(message, move);
}

/** Tells that an operation is committed, and gives its memory back. */
function replyWritten({ id, operation }: Waiting, result: unknown): void {
  const memory = operation.type === "writeEpisodes" ? operation.tokens.buffer : undefined;
  if (memory === undefined) reply({ type: "written", id, result });
  else reply({ type: "written", id, result, memory }, [memory]);
}

function errorOf(error: unknown): ErrorMessage {
  if (!(error instanceof AleError)) return { code: "internal", message: errorMessage(error) };
  const { code, message, hint } = error;
  return hint === undefined ? { code, message } : { code, message, hint };
}

self.onmessage = ({ data }: MessageEvent<WriterRequest>) => {
  switch (data.type) {
    case "open":
      void open(data);
      break;
    case "write":
      queue.push(data);
      void work();
      break;
    case "close":
      closing = true;
      void work();
      break;
  }
};

async function open(request: Extract<WriterRequest, { type: "open" }>): Promise<void> {
  try {
    connection = await openWriter(request.path, request);
    opened = request;
    reply({ type: "opened" });
  } catch (error) {
    reply({ type: "opened", error: errorOf(error) });
  }
}

async function work(): Promise<void> {
  if (working) return;
  working = true;
  while (queue.length > 0) {
    const batch = queue.slice(0, BATCH);
    queue = queue.slice(BATCH);
    await writeBatch(batch);
    // Statements run synchronously: let messages in, so that the next batch holds what came meanwhile.
    await new Promise((resolve) => setImmediate(resolve));
  }
  working = false;
  if (closing) await close();
}

/** All operations in one transaction; if one fails, each in its own, so that only the faulty one is refused. */
async function writeBatch(batch: readonly Waiting[]): Promise<void> {
  try {
    const results = await transact(batch);
    for (const [i, one] of batch.entries()) replyWritten(one, results[i]);
  } catch (error) {
    const [only] = batch;
    if (batch.length === 1 && only !== undefined) {
      reply({ type: "written", id: only.id, error: errorOf(error) });
      return;
    }
    for (const one of batch) await writeBatch([one]);
  }
}

async function transact(batch: readonly Waiting[]): Promise<unknown[]> {
  if (opened === undefined) throw new AleError("internal", "the writer of the store is not open");
  connection ??= await openWriter(opened.path, opened);
  try {
    return await inTransaction(connection, async (transaction) => {
      const results: unknown[] = [];
      for (const { operation } of batch) results.push(await applyOperation(transaction, operation));
      return results;
    });
  } catch (error) {
    if (databaseCode(error) === "SQLITE_BUSY") dropConnection();
    throw describeDatabaseError(error, opened.path, "writing to the store");
  }
}

/**
 * After a statement ended as busy the driver leaves it unfinished until it is collected as garbage, and every commit on that
 * connection is refused ("SQL statements in progress"). The next transaction gets a new connection.
 */
function dropConnection(): void {
  connection?.client.close();
  connection = undefined;
}

async function close(): Promise<void> {
  try {
    await connection?.client.execute("PRAGMA optimize");
    await connection?.client.execute("PRAGMA wal_checkpoint(TRUNCATE)");
  } catch {
    // Every commit is in the WAL; whoever opens the store next folds it in.
  }
  dropConnection();
  reply({ type: "closed" });
}
