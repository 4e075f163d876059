/**
 * Entries of a tar file as entries for a sandbox that unpacks them (`sandbox/protocol.ts`). What leads out of the image is
 * refused here by name, and cannot be followed there. Marks of removed files, as layers of containers have them (OCI image
 * specification, "Layer Changesets"), become those of overlayfs.
 */

import { AleError } from "../core/errors.ts";
import { concat } from "../sandbox/protocol.ts";
import { type Allowance, MAX_PATH_BYTES } from "./limits.ts";
import type { TarItem } from "./tar-reader.ts";

/** As `enum entry_type` in `sandbox/launcher/init.h`. */
const Kind = { end: 0, file: 1, folder: 2, link: 3, hardLink: 4, part: 5, whiteout: 6, opaque: 7 } as const;
const ENTRY_BYTES = 40;
const MAX_LINK_BYTES = 4000;
/** Content of one entry; the rest of a file follows in parts. */
const PART_BYTES = 1 << 20;
const NONE = new Uint8Array(0);
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";

export interface EntryOptions {
  readonly allowance: Allowance;
  /** Where marks of removed files mean that. */
  readonly isLayer: boolean;
  /** Changes of /usr lie apart, as over a base of this machine's programs. */
  readonly splitUsr: boolean;
}

/** What was left out, by kind. */
export interface LeftOut {
  /** Devices, fifos and others. */
  special: number;
  /** Extended attributes, none of which is kept. */
  attributes: number;
}

export class LayerEntries {
  readonly #options: EntryOptions;
  readonly leftOut: LeftOut = { special: 0, attributes: 0 };
  /** Folders, to be given their modes and times once more when everything is in them. */
  readonly #folders: Uint8Array[] = [];

  constructor(options: EntryOptions) {
    this.#options = options;
  }

  /** The encoded entries of one item; several for a large file. @throws AleError("usage") naming what leads out. */
  async *of(item: TarItem): AsyncGenerator<Uint8Array> {
    const parts = splitPath(item.path);
    this.#options.allowance.take(0, 1);
    this.leftOut.attributes += item.attributes.length;
    if (this.#options.isLayer && parts.at(-1)?.startsWith(WHITEOUT)) {
      yield* this.#whiteout(parts);
      return;
    }
    const path = this.#place(item.path, parts);
    if (path === undefined) return;
    if (item.type === "folder") {
      const entry = encode(Kind.folder, item, path, NONE);
      this.#folders.push(entry);
      yield entry;
    } else if (item.type === "link") {
      if (item.target.length > MAX_LINK_BYTES) throw refused(item.path, "a link that is too long");
      yield encode(Kind.link, item, path, item.target);
    } else if (item.type === "hard link") {
      const target = this.#place(item.target, splitPath(item.target));
      if (target === undefined) throw refused(item.path, "a hard link to the root");
      yield encode(Kind.hardLink, item, path, target);
    } else if (item.type === "file") yield* this.#file(item, path);
    else this.leftOut.special++;
  }

  /** The folders that everything goes into. */
  *roots(): Generator<Uint8Array> {
    for (const name of this.#options.splitUsr ? ["root.up", "usr.up"] : ["root.up"])
      yield encode(Kind.folder, BLANK, encoder.encode(name), NONE);
  }

  /** Folders' entries once more. */
  *folders(): Generator<Uint8Array> {
    yield* this.#folders;
  }

  async *#file(item: TarItem, path: Uint8Array): AsyncGenerator<Uint8Array> {
    let kind: number = Kind.file;
    let pending: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of item.content()) {
      this.#options.allowance.take(chunk.length);
      pending.push(chunk);
      bytes += chunk.length;
      if (bytes < PART_BYTES) continue;
      yield encode(kind, item, path, concat(pending));
      kind = Kind.part;
      pending = [];
      bytes = 0;
    }
    if (kind === Kind.file || bytes > 0) yield encode(kind, item, path, concat(pending));
  }

  *#whiteout(parts: readonly string[]): Generator<Uint8Array> {
    const name = parts.at(-1) ?? "";
    const folder = parts.slice(0, -1);
    const at = (names: readonly string[]) => this.#place(bytesOf(names.join("/")), names);
    if (name === OPAQUE) {
      if (folder.length === 0)
        throw refused(bytesOf(name), "a mark that hides all layers below, which overlays do not know");
      const path = at(folder);
      if (path !== undefined) yield encode(Kind.opaque, BLANK, path, NONE);
      return;
    }
    if (name.startsWith(`${WHITEOUT}${WHITEOUT}`)) return; // notes of aufs
    const hidden = name.slice(WHITEOUT.length);
    if (hidden === "" || hidden === "." || hidden === "..")
      throw refused(bytesOf(parts.join("/")), "a mark of nothing");
    const path = at([...folder, hidden]);
    if (path !== undefined) yield encode(Kind.whiteout, BLANK, path, NONE);
  }

  /** The path below the layer's folder; `undefined` for what has no place there. */
  #place(original: Uint8Array, parts: readonly string[]): Uint8Array | undefined {
    if (parts.includes("..")) throw refused(original, "a path that leads out of the image");
    if (parts.length === 0) return encoder.encode("root.up");
    const usr = this.#options.splitUsr && parts[0] === "usr";
    if (usr && parts.length === 1) return undefined;
    const path = bytesOf(usr ? `usr.up/${parts.slice(1).join("/")}` : `root.up/${parts.join("/")}`);
    if (path.length > MAX_PATH_BYTES) throw refused(original, "a path that is too long");
    return path;
  }
}

const BLANK = { mode: 0o755, uid: 0, gid: 0, modified: 0 };

/** Names of a path as binary strings, one character a byte: names need not be text. */
function splitPath(path: Uint8Array): string[] {
  return Buffer.from(path)
    .toString("latin1")
    .split("/")
    .filter((part) => part !== "" && part !== ".");
}

function bytesOf(text: string): Uint8Array {
  return Buffer.from(text, "latin1");
}

function refused(path: Uint8Array, what: string): AleError {
  return new AleError("usage", `the archive has ${what}: ${JSON.stringify(decoder.decode(path).slice(0, 200))}`, {
    hint: "it is not what a tool for images makes; nothing of it was kept",
  });
}

type Attributes = Pick<TarItem, "mode" | "uid" | "gid" | "modified">;

function encode(
  kind: number,
  { mode, uid, gid, modified }: Attributes,
  path: Uint8Array,
  content: Uint8Array,
): Uint8Array {
  const head = new Uint8Array(ENTRY_BYTES);
  const view = new DataView(head.buffer);
  const seconds = Number.isFinite(modified) ? Math.min(Math.max(0, modified), 2 ** 33) : 0;
  view.setUint8(0, kind);
  view.setUint8(1, 1); // zeros become holes
  view.setUint32(4, mode, true);
  view.setUint32(8, clampId(uid), true);
  view.setUint32(12, clampId(gid), true);
  view.setBigInt64(16, BigInt(Math.round(seconds * 1000)) * 1_000_000n, true);
  view.setUint32(24, path.length, true);
  view.setBigUint64(32, BigInt(content.length), true);
  return concat([head, path, content]);
}

function clampId(id: number): number {
  return Number.isInteger(id) && id >= 0 && id < 0xffffffff ? id : 0;
}

/** What ends a list of entries. */
export const END = new Uint8Array(ENTRY_BYTES);
