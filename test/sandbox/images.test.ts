/** Images: archives become root file systems that are what the archives say; hostile ones change nothing. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { importImage } from "../../src/images/import-image.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import {
  BUSYBOX,
  busybox,
  containerOf,
  dockerArchive,
  type ImageHome,
  isRoot,
  ociLayout,
  onImage,
  openImageHome,
  program,
  type TarEntry,
  tarOf,
} from "./image-support.ts";
import { ENVIRONMENT, output } from "./support.ts";

if (BUSYBOX === undefined) console.log("skipped: images: busybox (busybox-static) is not installed");
const withBusybox = describe.skipIf(BUSYBOX === undefined);

let scene: ImageHome;
let neighbour: NativeSandbox;
beforeAll(async () => {
  scene = await openImageHome();
  neighbour = await scene.provider.create(ENVIRONMENT);
  await output(neighbour, "echo mine > /work/mine; echo tool > /opt/tool");
});
afterAll(() => scene?.[Symbol.asyncDispose](), 120_000);

const bring = (name: string, path: string, options = {}) =>
  importImage(scene.images, scene.provider, path, name, options);
const use = (image: string) => scene.provider.createBare(onImage(image));

withBusybox("a root file system from a tar file", () => {
  const long = `deep/${"a-long-name-".repeat(12)}/${"b".repeat(200)}`;
  const odd = Buffer.concat([Buffer.from("odd-"), Buffer.from([0xff, 0xfe])]);
  const entries: TarEntry[] = [
    { path: "./", flag: "5", mode: 0o755 },
    program,
    { path: "etc/", flag: "5", mode: 0o750 },
    { path: "etc/secret", content: "s", mode: 0o600, uid: 33 },
    { path: "etc/again", flag: "1", target: "etc/secret" },
    { path: "link", flag: "2", target: "/etc/secret" },
    { path: "closed/", flag: "5", mode: 0o000 },
    { path: "closed/in", content: "inside" },
    { path: "suid", content: "x", mode: 0o4755 },
    { path: "x", content: "long", pax: { path: long } },
    { path: odd, content: "odd" },
    { path: "dev/sda", flag: "4" },
    { path: "pipe", flag: "6" },
    { path: "large", content: Buffer.alloc(5 << 20, "large ") },
  ];

  test.each([
    ["plain", (bytes: Buffer): Uint8Array => bytes],
    ["gzip", gzipSync],
    ["zstd", zstdCompressSync],
  ])("%s: files, links, modes, owners, long and odd names are as they were", async (name, compress) => {
    const result = await bring(name, scene.file(`root-${name}.tar`, compress(tarOf(entries))));
    expect(result.leftOut).toEqual({ special: 2, attributes: 0 });
    await using sandbox = await use(name);
    const owner = isRoot ? "33" : "0";
    expect(
      await busybox(
        sandbox,
        `cd /; busybox() { /bin/busybox "$@"; }; busybox stat -c '%a %u %h' etc etc/secret suid; cat etc/again link closed/in; echo;
         cat '${long}' odd-*; echo; [ -e dev/sda ] || echo no device; [ -e pipe ] || echo no pipe; wc -c < large; ls -d clos*`,
      ),
    ).toBe(
      `750 0 2\n600 ${owner} 2\n4755 0 1\nssinside\nlongodd\nno device\nno pipe\n5242880\nclosed\n`.replace(
        "750 0 2",
        "750 0 2",
      ),
    );
    // Written over, not into.
    expect(await busybox(sandbox, "echo changed > /etc/secret; rm -r /closed; cat /etc/secret")).toBe("changed\n");
    await using other = await use(name);
    expect(await busybox(other, "cat /etc/secret /closed/in")).toBe("sinside");
  });

  test("holes stay holes, in GNU's and in POSIX' form", async () => {
    const folder = join(scene.home, "sparse");
    mkdirSync(join(folder, "bin"), { recursive: true });
    const { truncate } = await import("node:fs/promises");
    writeFileSync(join(folder, "holes"), "begin");
    await truncate(join(folder, "holes"), 64 << 20);
    writeFileSync(join(folder, "bin/busybox"), program.content ?? "", { mode: 0o755 });
    for (const format of ["gnu", "posix"]) {
      const path = join(scene.home, `${format}.tar`);
      const tar = ["tar", `--format=${format}`, "-S", "-cf", path, "-C", folder, "."];
      expect(Bun.spawnSync(tar, { timeout: 60_000 }).exitCode).toBe(0);
      expect(statSync(path).size).toBeLessThan(8 << 20);
      const { image } = await bring(`sparse-${format}`, path);
      const file = statSync(join(scene.home, "layers", image.layers[0] ?? "", "root.up/holes"));
      expect([file.size, file.blocks * 512 < 1 << 20]).toEqual([64 << 20, true]);
      await using sandbox = await use(`sparse-${format}`);
      expect(await busybox(sandbox, "head -c 6 /holes | tr '\\0' .; tail -c 1 /holes | tr '\\0' .")).toBe("begin..");
    }
  });

  // In memory: on a disk that others are busy with, making and removing so many takes minutes.
  test("100 000 files", async () => {
    await using own = await openImageHome(existsSync("/dev/shm") ? "/dev/shm" : undefined);
    const many: TarEntry[] = [program];
    for (let i = 0; i < 100_000; i++) many.push({ path: `n/${i % 317}/file-${i}`, content: `${i}` });
    const started = performance.now();
    const { image } = await importImage(own.images, own.provider, own.file("many.tar", tarOf(many)), "many");
    console.log(`import of 100 000 files: ${((performance.now() - started) / 1000).toFixed(1)} s`);
    expect(image.entries).toBe(100_001);
    await using sandbox = await own.provider.createBare(onImage("many"));
    expect(await busybox(sandbox, "find /n -type f | wc -l; cat /n/0/file-317")).toBe("100000\n317");
  }, 120_000);
});

withBusybox("layers of a container image", () => {
  const first = tarOf([
    program,
    { path: "d/kept", content: "1" },
    { path: "d/gone", content: "1" },
    { path: "hidden/below", content: "1" },
    { path: "whole/old", content: "1" },
    { path: "replaced", content: "file" },
  ]);
  const second = tarOf([
    { path: "d/.wh.gone" },
    { path: "d/new", content: "2" },
    { path: "hidden/.wh..wh..opq" },
    { path: "hidden/above", content: "2" },
    { path: ".wh.whole" },
    { path: "replaced/", flag: "5", mode: 0o755 },
    { path: "replaced/in", content: "2" },
  ]);
  const third = tarOf([
    { path: "d/kept", content: "3" },
    { path: "whole/", flag: "5" },
  ]);
  const parts = containerOf([first, second, third], {
    Env: ["PATH=/bin:/usr/bin", "GREETING=it's me"],
    WorkingDir: "/d",
  });
  const look =
    "cat /d/kept; ls /d /hidden /whole /replaced | tr '\\n' ' '; ls -l / | grep -c '^c'; echo \"$GREETING\"; pwd";
  const seen = "3/d:\nkept\nnew\n\n/hidden:\nabove\n\n/replaced:\nin\n\n/whole:\n".replaceAll("\n", " ");

  async function check(name: string): Promise<void> {
    await using sandbox = await use(name);
    expect(await busybox(sandbox, look)).toBe(`${seen}0\nit's me\n/\n`);
  }

  test("docker save: removed files, hidden folders, variables", async () => {
    const { image, unpacked } = await bring("docker", scene.file("docker.tar", dockerArchive(parts)));
    expect([image.workdir, image.layers.length, unpacked]).toEqual(["/d", 3, 3]);
    await check("docker");
  });

  test("OCI layout, as a folder and as a compressed tar file; layers that are there are not unpacked again", async () => {
    const files = ociLayout(parts, gzipSync);
    for (const [path, content] of files) scene.file(join("oci", path), content);
    expect(await bring("oci", join(scene.home, "files/oci"))).toMatchObject({ unpacked: 0 });
    await check("oci");
    const tar = gzipSync(tarOf([...files].map(([path, content]) => ({ path, content }))));
    expect(await bring("oci-tar", scene.file("oci.tar.gz", tar))).toMatchObject({ unpacked: 0 });
    await check("oci-tar");
  });

  test("what is not what its digest says, or of another machine, is refused and leaves nothing", async () => {
    const before = scene.layers();
    const honest = containerOf([first, tarOf([{ path: "d/fresh", content: "x" }])]);
    const forged = { ...honest, layers: [first, tarOf([{ path: "d/evil", content: "x" }])] };
    await expect(bring("bad", scene.file("bad.tar", dockerArchive(forged)))).rejects.toThrow(
      "not what its digest says",
    );
    const blobs = ociLayout(containerOf([third]), gzipSync);
    for (const [path, content] of blobs) {
      const changed =
        path.startsWith("blobs/") && content[0] === 0x7b ? Buffer.concat([content, Buffer.from(" ")]) : content;
      scene.file(join("oci-bad", path), changed);
    }
    await expect(bring("bad", join(scene.home, "files/oci-bad"))).rejects.toThrow("is not what its digest says");
    const arm = { ...parts, config: Buffer.from(JSON.stringify({ architecture: "arm64", os: "linux" })) };
    await expect(bring("bad", scene.file("arm.tar", dockerArchive(arm)))).rejects.toThrow("linux on arm64");
    expect(scene.layers()).toEqual(before);
    expect(await scene.images.find("bad")).toBeUndefined();
  });
});

describe("hostile archives", () => {
  const outside = () => join(scene.home, "outside");
  const hostile: readonly (readonly [
    name: string,
    entries: () => readonly TarEntry[] | Uint8Array,
    refusal: RegExp,
  ])[] = [
    ["a path that leads up", () => [{ path: "../../outside/evil", content: "x" }], /leads out of the image/],
    ["one in the middle", () => [{ path: "a/../../../outside/evil", content: "x" }], /leads out of the image/],
    ["in a pax record", () => [{ path: "a", content: "x", pax: { path: "../../outside/evil" } }], /leads out/],
    ["a hard link that leads up", () => [{ path: "a", flag: "1", target: "../../../outside/kept" }], /leads out/],
    ["a hard link to what is not there", () => [{ path: "a", flag: "1", target: "/etc/passwd" }], /No such file/],
    [
      "a link, then a file through it",
      () => [
        { path: "way", flag: "2", target: outside() },
        { path: "way/evil", content: "x" },
      ],
      /Not a directory|Too many levels/,
    ],
    [
      "a link, then a folder in its place",
      () => [
        { path: "way", flag: "2", target: outside() },
        { path: "way/", flag: "5" },
        { path: "way/evil", content: "x" },
      ],
      /Not a directory|Too many levels/,
    ],
    [
      "a hard link to a link, then through it",
      () => [
        { path: "way", flag: "2", target: outside() },
        { path: "again", flag: "1", target: "way" },
        { path: "again/evil", content: "x" },
      ],
      /Not a directory|Too many levels/,
    ],
    ["a name that is too long", () => [{ path: "a", pax: { path: "d/".repeat(600) } }], /a path that is too long/],
    ["a name with too long a part", () => [{ path: "a", content: "x", pax: { path: "n".repeat(300) } }], /too long/],
    ["a number of files", () => Array.from({ length: 300 }, (_, i) => ({ path: `f${i}` })), /more than 200 files/],
    ["a large file", () => [{ path: "f", content: Buffer.alloc(3 << 20) }], /more than 2097152 bytes/],
    [
      "a file of holes",
      () => [
        { path: "f", pax: { "GNU.sparse.map": "0,0", "GNU.sparse.size": String(2 ** 45), "GNU.sparse.name": "f" } },
      ],
      /more than 2097152 bytes/,
    ],
    ["a bomb of padding", () => gzipSync(Buffer.concat([tarOf([{ path: "a" }]), Buffer.alloc(8 << 20)])), /more than/],
    ["a size that is a lie", () => [{ path: "f", content: "x", size: 2 ** 30 }], /cut off/],
    ["no archive at all", () => Buffer.alloc(4096, "garbage"), /no tar file/],
    ["half of a compressed one", () => gzipSync(tarOf([program])).subarray(0, 300), /cannot be read|cut off/],
    ["an endless record", () => [{ path: "x", flag: "x", size: 2 ** 31 }], /too long/],
    ["a record of nonsense", () => [{ path: "x", flag: "x", content: "9999 path=x\n" }], /pax record/],
  ];

  test.each(hostile)("%s: refused, and nothing of it is kept", async (name, entries, refusal) => {
    mkdirSync(outside(), { recursive: true });
    writeFileSync(join(outside(), "kept"), "kept");
    const before = scene.layers();
    const content = entries();
    const path = scene.file("hostile.tar", content instanceof Uint8Array ? content : tarOf(content));
    const limits = { bytes: 2 << 20, entries: 200 };
    await expect(bring(`hostile`, path, { limits })).rejects.toThrow(refusal);
    expect(name).not.toBe("");
    expect(readdirSync(outside())).toEqual(["kept"]);
    expect([readFileSync(join(outside(), "kept"), "utf8"), statSync(join(outside(), "kept")).nlink]).toEqual([
      "kept",
      1,
    ]);
    expect(scene.layers()).toEqual(before);
    expect(await scene.images.find("hostile")).toBeUndefined();
    expect(await output(neighbour, "cat /work/mine /opt/tool")).toBe("mine\ntool\n");
  });

  test.skipIf(BUSYBOX === undefined)(
    "marks of overlays and other attributes are never taken from an archive",
    async () => {
      const pax = (name: string, value: string) => ({ [`SCHILY.xattr.${name}`]: value });
      const lower = tarOf([program, { path: "d/below", content: "1" }, { path: "other/secret", content: "s" }]);
      const upper = tarOf([
        { path: "d/", flag: "5", mode: 0o755, pax: pax("user.overlay.opaque", "y") },
        { path: "e/", flag: "5", mode: 0o755, pax: pax("user.overlay.redirect", "/other") },
        {
          path: "f",
          content: "",
          pax: { ...pax("trusted.overlay.metacopy", "x"), ...pax("security.capability", "x") },
        },
        { path: "c", flag: "3" }, // a device 0:0, which would hide
      ]);
      const archive = dockerArchive(containerOf([lower, upper]));
      const { leftOut } = await bring("marks", scene.file("marks.tar", archive));
      expect(leftOut).toEqual({ special: 1, attributes: 4 });
      await using sandbox = await use("marks");
      expect(await busybox(sandbox, "cat /d/below; ls /e | wc -l")).toBe("10\n");
    },
  );

  test.skipIf(BUSYBOX === undefined)("links where the sandbox mounts things lead nowhere outside", async () => {
    const entries: TarEntry[] = [
      program,
      { path: "proc", flag: "2", target: "/base" },
      { path: "dev", flag: "2", target: "../base" },
      { path: "tmp", flag: "2", target: "/proc" },
      { path: ".target", flag: "2", target: "/base" },
      { path: "work", flag: "2", target: "/base/0" },
    ];
    await bring("linked", scene.file("linked.tar", tarOf(entries)));
    await using sandbox = await scene.provider.createBare({ ...onImage("linked"), workdir: "/opt/x" });
    expect(
      await busybox(sandbox, "ls -ld /proc /dev | cut -c1; [ -e /proc/self/status ] && echo own; ls /base 2>&1"),
    ).toMatch(/^d\nd\nown\nls: \/base: No such file/);
    await expect(scene.provider.createBare({ ...onImage("linked"), workdir: "/work/deep" })).rejects.toThrow(
      "/work/deep",
    );
    await using next = await scene.provider.create(ENVIRONMENT);
    expect(await output(next, "ls /work; echo fine")).toBe("fine\n");
    expect(await output(neighbour, "cat /work/mine")).toBe("mine\n");
  });
});
