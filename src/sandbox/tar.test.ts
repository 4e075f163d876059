import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { archiveToTar, tarToArchive } from "./tar.ts";

let folder: string;
const LONG = `${"deep/".repeat(30)}file`;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ale-tar-"));
  const from = join(folder, "from");
  mkdirSync(join(from, LONG, ".."), { recursive: true });
  writeFileSync(join(from, LONG), "far down");
  writeFileSync(join(from, "exact"), new Uint8Array(1024).fill(7));
  writeFileSync(join(from, "empty"), "");
  writeFileSync(join(from, "ünï"), "text\n");
  chmodSync(join(from, "exact"), 0o751);
  symlinkSync("x".repeat(150), join(from, "longlink"));
  symlinkSync("exact", join(from, "link"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function tar(...argv: string[]): Uint8Array {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["tar", ...argv], { cwd: folder, timeout: 20_000 });
  if (exitCode !== 0) throw new Error(stderr.toString());
  return new Uint8Array(stdout);
}

test.each(["pax", "gnu", "ustar"])("what tar --format=%s wrote comes out of tar as it was", (format) => {
  const skip = format === "ustar" ? ["--exclude=deep", "--exclude=longlink"] : [];
  const archive = tarToArchive(tar("-c", `--format=${format}`, ...skip, "-C", "from", "."));
  const to = join(folder, format);
  mkdirSync(to);
  writeFileSync(join(folder, `${format}.tar`), archiveToTar(archive));
  tar("-xf", `${format}.tar`, "-C", format);
  expect(readFileSync(join(to, "exact"))).toEqual(readFileSync(join(folder, "from/exact")));
  expect(statSync(join(to, "exact")).mode & 0o777).toBe(0o751);
  expect(statSync(join(to, "exact")).mtimeMs).toBe(
    Math.floor(statSync(join(folder, "from/exact")).mtimeMs / 1000) * 1000,
  );
  expect(readFileSync(join(to, "ünï"), "utf8")).toBe("text\n");
  expect(readFileSync(join(to, "empty"), "utf8")).toBe("");
  expect(readlinkSync(join(to, "link"))).toBe("exact");
  if (skip.length > 0) return;
  expect(readFileSync(join(to, LONG), "utf8")).toBe("far down");
  expect(readlinkSync(join(to, "longlink"))).toBe("x".repeat(150));
});

test("what is no tar file, or not whole, is said", () => {
  const good = tar("-c", "-C", "from", "exact");
  expect(() => tarToArchive(new Uint8Array(2048).fill(65))).toThrow("no tar file");
  expect(() => tarToArchive(good.subarray(0, 1000))).toThrow("cut off");
  expect(() => tarToArchive(Bun.gzipSync(new Uint8Array(5000).map((_, i) => (i * i) % 251)))).toThrow("no tar file");
  expect(tarToArchive(new Uint8Array(1024))).toEqual(new Uint8Array(40));
});
