/** Archives for the tests of images, hostile ones included, and a home for images. */

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { EnvironmentSpec } from "../../src/core/types.ts";
import { ImageStore } from "../../src/images/image-store.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { removeTree } from "../../src/sandbox/remove-tree.ts";
import { createSandboxProvider, type NativeSandboxProvider } from "../../src/sandbox/supervisor.ts";
import { ENVIRONMENT } from "./support.ts";

export const isRoot = process.getuid?.() === 0;

/** A program that needs nothing but itself, for images without anything else. */
export const BUSYBOX = ["/bin/busybox", "/usr/bin/busybox"].find((path) => existsSync(path));

export interface TarEntry {
  readonly path: string | Uint8Array;
  /** As in a tar header: 0 file, 1 hard link, 2 link, 3 and 4 devices, 5 folder, 6 fifo, S sparse, x pax. */
  readonly flag?: string;
  readonly content?: string | Uint8Array;
  readonly mode?: number;
  readonly uid?: number;
  readonly target?: string;
  readonly pax?: Readonly<Record<string, string | Uint8Array>>;
  /** What the header says of the size, where that is a lie. */
  readonly size?: number;
}

/** It, as an archive has it. */
export const program: TarEntry = {
  path: "bin/busybox",
  mode: 0o755,
  content: BUSYBOX === undefined ? "" : readFileSync(BUSYBOX),
};

const encoder = new TextEncoder();
const toBytes = (value: string | Uint8Array) => (typeof value === "string" ? encoder.encode(value) : value);

function block({ path, flag = "0", content = "", mode = 0o644, uid = 0, target = "", size }: TarEntry): Buffer {
  const head = Buffer.alloc(512);
  const octal = (at: number, digits: number, value: number) =>
    head.write(value.toString(8).padStart(digits, "0"), at, "latin1");
  Buffer.from(toBytes(path)).copy(head, 0, 0, 100);
  octal(100, 7, mode);
  octal(108, 7, uid);
  octal(116, 7, uid);
  octal(124, 11, size ?? toBytes(content).length);
  octal(136, 11, 1_600_000_000);
  head.write("        ", 148, "latin1");
  head.write(flag, 156, "latin1");
  head.write(target, 157, "latin1");
  head.write("ustar\u000000", 257, "latin1");
  octal(
    148,
    6,
    head.reduce((sum, byte) => sum + byte, 0),
  );
  head[154] = 0;
  return head;
}

function withContent(entry: TarEntry): Buffer[] {
  const bytes = Buffer.from(toBytes(entry.content ?? ""));
  return [block(entry), bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)];
}

function paxRecord(key: string, value: string | Uint8Array): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), toBytes(value), Buffer.from("\n")]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** A tar file, exactly as its entries say. */
export function tarOf(entries: readonly TarEntry[]): Buffer {
  const parts = entries.flatMap((entry) => {
    if (entry.pax === undefined) return withContent(entry);
    const records = Buffer.concat(Object.entries(entry.pax).map(([key, value]) => paxRecord(key, value)));
    return [...withContent({ path: "pax", flag: "x", content: records }), ...withContent(entry)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

export const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

export interface ContainerParts {
  readonly config: Buffer;
  readonly layers: readonly Buffer[];
}

/** Configuration of an image of these layers, oldest first, as container tools write it. */
export function containerOf(layers: readonly Buffer[], config: object = {}): ContainerParts {
  const diffIds = layers.map((layer) => `sha256:${sha256(layer)}`);
  const json = { architecture: "amd64", os: "linux", config, rootfs: { type: "layers", diff_ids: diffIds } };
  return { config: Buffer.from(JSON.stringify(json)), layers };
}

/** What `docker save` writes. */
export function dockerArchive({ config, layers }: ContainerParts): Buffer {
  const names = layers.map((layer) => `${sha256(layer)}/layer.tar`);
  const manifest = [{ Config: "config.json", RepoTags: ["test:1"], Layers: names }];
  return tarOf([
    ...layers.map((layer, index) => ({ path: names[index] ?? "", content: layer })),
    { path: "config.json", content: config },
    { path: "manifest.json", content: JSON.stringify(manifest) },
  ]);
}

/** An OCI image layout: files by path. `compress` packs the layers. */
export function ociLayout(
  { config, layers }: ContainerParts,
  compress: (bytes: Buffer) => Uint8Array,
): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>([["oci-layout", encoder.encode('{"imageLayoutVersion":"1.0.0"}')]]);
  const blob = (bytes: Uint8Array, mediaType: string) => {
    const digest = sha256(bytes);
    files.set(`blobs/sha256/${digest}`, bytes);
    return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
  };
  const type = "application/vnd.oci.image";
  const manifest = {
    schemaVersion: 2,
    config: blob(config, `${type}.config.v1+json`),
    layers: layers.map((layer) => blob(compress(layer), `${type}.layer.v1.tar+gzip`)),
  };
  const described = blob(Buffer.from(JSON.stringify(manifest)), `${type}.manifest.v1+json`);
  const other = { ...described, platform: { architecture: "arm64", os: "linux" } };
  const own = { ...described, platform: { architecture: "amd64", os: "linux" } };
  files.set("index.json", encoder.encode(JSON.stringify({ schemaVersion: 2, manifests: [other, own] })));
  return files;
}

export interface ImageHome extends AsyncDisposable {
  readonly home: string;
  readonly images: ImageStore;
  readonly provider: NativeSandboxProvider;
  /** Writes a file for a test and returns its path. */
  file(name: string, content: Uint8Array): string;
  /** Folders of layers, whole or not. */
  layers(): string[];
}

/** `below`: folder to make it in. */
export async function openImageHome(below: string = tmpdir()): Promise<ImageHome> {
  const home = mkdtempSync(join(below, "ale-images-test-"));
  const images = new ImageStore(home);
  const provider = await createSandboxProvider({
    ...{ maskPaths: [], stateDir: join(home, "sandboxes"), resolveImage: images.resolve },
  });
  return {
    ...{ home, images, provider },
    file(name, content) {
      const path = join(home, "files", name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, content);
      return path;
    },
    layers: () => (existsSync(join(home, "layers")) ? readdirSync(join(home, "layers")).sort() : []),
    async [Symbol.asyncDispose]() {
      await provider.close();
      await removeTree(home);
    },
  };
}

export const onImage = (image: string): EnvironmentSpec => ({ ...ENVIRONMENT, profile: "image", image });

/** Runs a script with the image's busybox. */
export async function busybox(sandbox: NativeSandbox, script: string): Promise<string> {
  const options = { cwd: "/", timeoutMs: 20_000, maxOutputBytes: 8192 };
  const result = await sandbox.exec(["/bin/busybox", "sh", "-c", script], options);
  return new TextDecoder().decode(result.output);
}
