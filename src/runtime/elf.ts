/** Which shared libraries an ELF file asks for; https://refspecs.linuxfoundation.org/elf/elf.pdf, 64-bit little-endian. */

import { closeSync, openSync, readSync } from "node:fs";
import { AleError } from "../core/errors.ts";

const HEADER_BYTES = 64;
const SECTION_TYPE_DYNAMIC = 6;
const TAG_NEEDED = 1n;
const ENTRY_BYTES = 16;

/**
 * The names in `path`'s DT_NEEDED entries, in order. Reads headers only, however large the file is.
 * @throws AleError("engine") when it is not a 64-bit little-endian ELF file with sections.
 */
export function neededLibraries(path: string): readonly string[] {
  const file = openSync(path, "r");
  const read = (offset: number, length: number): DataView => {
    const bytes = new Uint8Array(new ArrayBuffer(length));
    const got = readSync(file, bytes, 0, length, offset);
    if (got !== length) throw new AleError("engine", `${path} ends at byte ${offset + got}: it is cut short`);
    return new DataView(bytes.buffer);
  };
  try {
    const header = read(0, HEADER_BYTES);
    // Magic, 64-bit class, little-endian data.
    if (header.getUint32(0) !== 0x7f454c46 || header.getUint16(4) !== 0x0201) {
      throw new AleError("engine", `${path} is not a 64-bit shared library`);
    }
    const sections = readSections(read, header);
    const dynamic = sections.find(({ type }) => type === SECTION_TYPE_DYNAMIC);
    const names = dynamic === undefined ? undefined : sections[dynamic.link];
    if (dynamic === undefined || names === undefined) return [];
    const strings = new Uint8Array(read(names.offset, names.size).buffer);
    const entries = read(dynamic.offset, dynamic.size);
    const needed: string[] = [];
    for (let at = 0; at + ENTRY_BYTES <= dynamic.size; at += ENTRY_BYTES) {
      if (entries.getBigUint64(at, true) !== TAG_NEEDED) continue;
      const start = Number(entries.getBigUint64(at + 8, true));
      needed.push(new TextDecoder().decode(strings.subarray(start, strings.indexOf(0, start))));
    }
    return needed;
  } finally {
    closeSync(file);
  }
}

interface Section {
  readonly type: number;
  readonly offset: number;
  readonly size: number;
  /** For the dynamic section: index of the section with its strings. */
  readonly link: number;
}

function readSections(read: (offset: number, length: number) => DataView, header: DataView): Section[] {
  const size = header.getUint16(58, true);
  const count = header.getUint16(60, true);
  const table = read(Number(header.getBigUint64(40, true)), size * count);
  return Array.from({ length: count }, (_, i) => ({
    type: table.getUint32(i * size + 4, true),
    offset: Number(table.getBigUint64(i * size + 24, true)),
    size: Number(table.getBigUint64(i * size + 32, true)),
    link: table.getUint32(i * size + 40, true),
  }));
}
