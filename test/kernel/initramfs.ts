/** A first root file system as Linux unpacks it: a cpio archive of the kind "newc" (Documentation/driver-api/early-userspace/buffer-format). */

export interface InitramfsFile {
  /** Without a leading slash; folders above it come first. */
  readonly path: string;
  /** `undefined`: a folder. */
  readonly content?: Uint8Array;
}

/** The archive; everything in it belongs to root and can be executed. */
export function writeInitramfs(files: readonly InitramfsFile[]): Uint8Array {
  const parts = files.map((file, index) => entry(file.path, index + 1, file.content));
  return Buffer.concat([...parts, entry("TRAILER!!!", 0, new Uint8Array(0))]);
}

function entry(path: string, inode: number, content: Uint8Array | undefined): Uint8Array {
  const name = Buffer.from(`${path}\0`);
  const mode = content === undefined ? 0o040755 : 0o100755;
  const size = content?.length ?? 0;
  // inode, mode, user, group, links, time, size, four device numbers, length of the name, checksum
  const fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
  return Buffer.concat([padded(Buffer.concat([header, name])), padded(content ?? new Uint8Array(0))]);
}

function padded(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes, new Uint8Array(-bytes.length & 3)]);
}
