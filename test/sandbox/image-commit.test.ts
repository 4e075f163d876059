/** Images of sandboxes: committed, exported, imported again, named by a profile, removed. */

import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { commitImage } from "../../src/images/commit-image.ts";
import { exportTar, writeTar } from "../../src/images/export-image.ts";
import { importImage } from "../../src/images/import-image.ts";
import { listProfiles, readProfileText, setProfileTexts } from "../../src/sandbox/profile-texts.ts";
import {
  BUSYBOX,
  busybox,
  containerOf,
  dockerArchive,
  type ImageHome,
  isRoot,
  onImage,
  openImageHome,
  program,
  tarOf,
} from "./image-support.ts";
import { ENVIRONMENT, output } from "./support.ts";

if (BUSYBOX === undefined) console.log("skipped: images: busybox (busybox-static) is not installed");

let scene: ImageHome;
beforeAll(async () => {
  scene = await openImageHome();
});
afterEach(() => setProfileTexts(undefined));
afterAll(() => scene?.[Symbol.asyncDispose](), 120_000);

const bring = (name: string, path: string, options = {}) =>
  importImage(scene.images, scene.provider, path, name, options);
const use = (image: string) => scene.provider.createBare(onImage(image));

describe("commit, export, remove", () => {
  test("a sandbox on this machine's programs: commit, run, the same files; export, import, the same again", async () => {
    await using sandbox = await scene.provider.create(ENVIRONMENT);
    const usr = isRoot ? "echo tool > /usr/bin/my-tool; rm /usr/bin/env;" : "";
    await output(sandbox, `${usr} echo one > /work/one; mkdir -p /opt/d; ln /work/one /opt/d/hard; ln -s /opt/d /link`);
    const request = { name: "mine:1", source: "s", workdir: "/work" };
    await using files = await sandbox.snapshotFiles();
    const image = await commitImage(scene.images, scene.provider, files, request);
    expect([image.base, image.layers.length]).toEqual(["profile:host", 1]);
    const look = "cat /work/one /link/hard; stat -c %h /work/one; cat /usr/bin/my-tool 2>/dev/null; true";
    const expected = `one\none\n2\n${isRoot ? "tool\n" : ""}`;
    await using again = await scene.provider.create(onImage("mine:1"));
    expect(await output(again, look)).toBe(expected);
    if (isRoot) expect(await output(again, "ls /usr/bin/env 2>/dev/null || echo gone")).toBe("gone\n");
    const path = join(scene.home, "mine.tar.zst");
    await writeTar(exportTar(scene.images, scene.provider, await scene.images.resolve("mine:1")), path);
    await bring("back", path, { base: "host" });
    await using back = await scene.provider.create(onImage("back"));
    expect(await output(back, look)).toBe(expected);
    // Committed once more, over the image: its layers are shared.
    await output(again, "rm /opt/d/hard; echo two > /work/two");
    await using more = await again.snapshotFiles();
    const second = await commitImage(scene.images, scene.provider, more, { ...request, name: "mine:2" });
    expect(second.layers.slice(1)).toEqual([...image.layers]);
    await using last = await scene.provider.create(onImage("mine:2"));
    expect(await output(last, "cat /work/one /work/two; ls /opt/d | wc -l")).toBe("one\ntwo\n0\n");
  });

  test.skipIf(BUSYBOX === undefined)(
    "an image with layers exports as one tar file without what was removed",
    async () => {
      const layers = [
        tarOf([program, { path: "a", content: "1" }, { path: "b", content: "1" }]),
        tarOf([{ path: ".wh.a" }]),
      ];
      await bring("two", scene.file("two.tar", dockerArchive(containerOf(layers))));
      const path = join(scene.home, "two-out.tar");
      await writeTar(exportTar(scene.images, scene.provider, await scene.images.resolve("two")), path);
      const listed = Bun.spawnSync(["tar", "-tf", path], { timeout: 20_000 }).stdout.toString().split("\n");
      expect(listed).toContain("b");
      expect(listed.some((name) => /^a$|\.wh|^proc\/.|target/.test(name))).toBe(false);
    },
  );

  test.skipIf(BUSYBOX === undefined)("a profile can stand for an image", async () => {
    await bring("for-profile", scene.file("p.tar", tarOf([program, { path: "here", content: "yes" }])));
    const profile = 'name = "box"\nkind = "image"\nimage = "for-profile"\ndescription = ""\n';
    setProfileTexts(
      new Map([...listProfiles().map((name) => [name, readProfileText(name) ?? ""] as const), ["box", profile]]),
    );
    await using sandbox = await scene.provider.createBare({ ...ENVIRONMENT, profile: "box" });
    expect(await busybox(sandbox, "cat /here")).toBe("yes");
    await using snapshot = await sandbox.snapshotFiles();
    await using child = await scene.provider.fork(snapshot);
    expect(await busybox(child, "cat /here")).toBe("yes");
  });

  test("a folder is used where it lies, and not changed", async () => {
    if (BUSYBOX === undefined) return;
    const folder = join(scene.home, "root-folder");
    mkdirSync(join(folder, "bin"), { recursive: true });
    writeFileSync(join(folder, "bin/busybox"), program.content ?? "", { mode: 0o755 });
    await bring("folder", folder);
    await using sandbox = await use("folder");
    expect(await busybox(sandbox, "echo x > /new; ls /bin; rm /bin/busybox; echo removed")).toBe("busybox\nremoved\n");
    expect(readdirSync(folder)).toEqual(["bin"]);
  });

  test("removed, an image is gone, and its layers when nothing uses them", async () => {
    await using own = await openImageHome();
    const tar = own.file("a.tar", tarOf([{ path: "a", content: "x" }]));
    for (const name of ["one", "two"]) await importImage(own.images, own.provider, tar, name);
    const [layer] = (await own.images.get("one")).layers;
    await own.images.remove("one");
    expect(own.layers()).toEqual([layer ?? ""]);
    const mark = readdirSync(join(own.home, "layers", layer ?? "")).filter((name) => name.startsWith("user-"));
    expect(mark).toHaveLength(1);
    // As if the process that used it had ended.
    for (const name of mark) rmSync(join(own.home, "layers", layer ?? "", name));
    mkdirSync(join(own.home, "layers", ".partial-999999-1-00"));
    await own.images.remove("two");
    expect(own.layers()).toEqual([]);
    await expect(own.images.get("two")).rejects.toThrow("there is no image");
    await expect(own.provider.create(onImage("two"))).rejects.toThrow('there is no image "two"');
    expect(existsSync(join(own.home, "images"))).toBe(true);
    expect(lstatSync(join(own.home, "layers")).mode & 0o777).toBe(0o700);
  });
});
