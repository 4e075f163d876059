/** Root file systems as tar files: of images, snapshots and sandboxes. */

import { createWriteStream } from "node:fs";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip, createZstdCompress } from "node:zlib";
import { AleError, errorMessage } from "../core/errors.ts";
import type { SandboxSnapshot } from "../core/ports.ts";
import { needStore } from "../sandbox/layer-store.ts";
import { removeTree } from "../sandbox/remove-tree.ts";
import type { StoredRoot } from "../sandbox/roots.ts";
import type { NativeSandboxProvider } from "../sandbox/supervisor.ts";
import { BLOCK, tarHead } from "../sandbox/tar.ts";
import { ByteSource, openPart } from "./byte-source.ts";
import type { ImageStore } from "./image-store.ts";
import { DEFAULT_LIMITS } from "./limits.ts";

const ENTRY_BYTES = 40;
const Kind = { end: 0, file: 1, link: 3, hardLink: 4 } as const;
const PART_BYTES = 1 << 20;
const NONE = new Uint8Array(0);

/**
 * The files as a tar file (pax), piece by piece. A sandbox packs them first into a file beside the images, which is removed
 * at the end.
 * @throws AleError("sandbox") when there is no room for that.
 */
export async function* exportTar(
  store: ImageStore,
  provider: NativeSandboxProvider,
  source: SandboxSnapshot | StoredRoot,
): AsyncGenerator<Uint8Array> {
  const folder = await store.newFolder();
  try {
    await needStore(provider).pack(source, folder, "files", DEFAULT_LIMITS.bytes);
    const path = join(folder, "files");
    await using bytes = new ByteSource(await openPart({ path, start: 0, length: Bun.file(path).size }));
    yield* toTar(bytes);
  } finally {
    await removeTree(folder);
  }
}

/** Entries of a sandbox (`sandbox/launcher/archive.c`) as a tar file. */
async function* toTar(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (;;) {
    const head = await source.exactly(ENTRY_BYTES);
    if (head === undefined) throw new AleError("sandbox", "the packed files end early");
    const view = new DataView(head.buffer, head.byteOffset, ENTRY_BYTES);
    const kind = view.getUint8(0);
    if (kind === Kind.end) break;
    const size = Number(view.getBigUint64(32, true));
    const entry = {
      ...{ kind, mode: view.getUint32(4, true), uid: view.getUint32(8, true), gid: view.getUint32(12, true) },
      modified: Math.floor(Number(view.getBigInt64(16, true)) / 1e9),
      path: (await source.exactly(view.getUint32(24, true))) ?? NONE,
    };
    const isLink = kind === Kind.link || kind === Kind.hardLink;
    yield tarHead(entry, kind === Kind.file ? size : 0, isLink ? ((await source.exactly(size)) ?? NONE) : NONE);
    if (kind !== Kind.file) continue;
    for (let left = size; left > 0; ) {
      const part = await source.some(Math.min(left, PART_BYTES));
      if (part === undefined) throw new AleError("sandbox", "the packed files end early");
      left -= part.length;
      yield part;
    }
    if (size % BLOCK > 0) yield new Uint8Array(BLOCK - (size % BLOCK));
  }
  yield new Uint8Array(2 * BLOCK);
}

/**
 * Writes a tar file, compressed when its name ends with `.gz`, `.tgz` or `.zst`. It has its name when it is whole.
 * @throws AleError("usage") when it cannot be written.
 */
export async function writeTar(tar: AsyncIterable<Uint8Array>, path: string): Promise<void> {
  const partial = `${path}.partial`;
  try {
    const out = createWriteStream(partial, { mode: 0o644 });
    if (/\.t?gz$/.test(path)) await pipeline(Readable.from(tar), createGzip(), out);
    else if (path.endsWith(".zst")) await pipeline(Readable.from(tar), createZstdCompress(), out);
    else await pipeline(Readable.from(tar), out);
    await rename(partial, path);
  } catch (cause) {
    await removeTree(partial);
    if (cause instanceof AleError) throw cause;
    throw new AleError("usage", `${path} cannot be written: ${errorMessage(cause)}`, {
      hint: "give another place, or free some space (df -h)",
      cause,
    });
  }
}
