/** One tar file, unpacked by a confined sandbox into a folder of the host that becomes a layer. */

import { needStore } from "../sandbox/layer-store.ts";
import { concat } from "../sandbox/protocol.ts";
import type { NativeSandboxProvider } from "../sandbox/supervisor.ts";
import { ByteSource, type FilePart, openPart } from "./byte-source.ts";
import { END, LayerEntries, type LeftOut } from "./layer-entries.ts";
import { Allowance, type ImageLimits } from "./limits.ts";
import { readTarItems } from "./tar-reader.ts";

/** Sent at once to the sandbox. */
const BATCH_BYTES = 1 << 20;
/** What headers and padding of an entry may take besides its content. */
const OVERHEAD_BYTES = 4096;

export interface UnpackOptions {
  readonly limits: ImageLimits;
  /** Marks of removed files mean that. */
  readonly isLayer: boolean;
  /** It stands on this machine's programs. */
  readonly splitUsr: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface Unpacked {
  /** SHA-256 of the uncompressed file, in hexadecimal digits. */
  readonly digest: string;
  readonly bytes: number;
  readonly entries: number;
  readonly leftOut: LeftOut;
}

/**
 * Unpacks a tar file below `folder`, as `root.up` and, over this machine's programs, `usr.up`.
 * @throws AleError("usage") for what is no tar file, leads out, or becomes too much; AleError("sandbox") when the disk is
 *   full. What was unpacked so far stays in `folder`.
 */
export async function unpackTar(
  provider: NativeSandboxProvider,
  part: FilePart,
  folder: string,
  options: UnpackOptions,
): Promise<Unpacked> {
  const hasher = new Bun.CryptoHasher("sha256");
  const allowance = new Allowance(options.limits);
  const raw = new Allowance({
    bytes: options.limits.bytes + options.limits.entries * OVERHEAD_BYTES,
    entries: Number.POSITIVE_INFINITY,
  });
  await using source = new ByteSource(await openPart(part), (chunk) => {
    raw.take(chunk.length); // a bomb may also be one of padding
    hasher.update(chunk);
  });
  const entries = new LayerEntries({ allowance, ...options });
  await using carrier = await needStore(provider).carrier(folder);
  const batch = new Batch((bytes) => carrier.place(bytes));
  for (const entry of entries.roots()) await batch.add(entry);
  for await (const item of readTarItems(source)) {
    options.signal?.throwIfAborted();
    for await (const entry of entries.of(item)) await batch.add(entry);
  }
  for (const entry of entries.folders()) await batch.add(entry);
  await batch.flush();
  await source.drain();
  const { bytes, entries: count } = allowance;
  return { digest: hasher.digest("hex"), bytes, entries: count, leftOut: entries.leftOut };
}

/** Entries on their way: one message is unpacked while the next is put together. */
class Batch {
  readonly #send: (bytes: Uint8Array) => Promise<void>;
  #parts: Uint8Array[] = [];
  #bytes = 0;
  #sending: Promise<void> = Promise.resolve();

  constructor(send: (bytes: Uint8Array) => Promise<void>) {
    this.#send = send;
  }

  async add(entry: Uint8Array): Promise<void> {
    this.#parts.push(entry);
    this.#bytes += entry.length;
    if (this.#bytes >= BATCH_BYTES) await this.#pass();
  }

  async #pass(): Promise<void> {
    const bytes = concat([...this.#parts, END]);
    this.#parts = [];
    this.#bytes = 0;
    await this.#sending;
    this.#sending = this.#send(bytes);
    this.#sending.catch(() => {}); // met by whoever waits for it
  }

  async flush(): Promise<void> {
    await this.#pass();
    await this.#sending;
  }
}
