import { beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import {
  check,
  doctorChecks,
  executable,
  mountNamespace,
  mountNamespaceObstacle,
  type Result,
  run,
  temporaryFolder,
  titled,
  toolObstacle,
} from "./support.ts";

let ale = "";
beforeAll(() => {
  ale = executable();
}, 300_000);

const mounts = mountNamespaceObstacle();

/** Both native libraries were loaded and did some work. */
function expectWorking(result: Result): void {
  const checks = doctorChecks(result);
  for (const name of ["ONNX Runtime", "libSQL"]) expect(check(checks, name)).toMatchObject({ ok: true });
}

function nativesBelow(folder: string): string[] {
  return [...new Bun.Glob("**/natives/*/*").scanSync({ cwd: folder, dot: true })]
    .filter((path) => !path.endsWith(".verified"))
    .sort();
}

function hashOf(path: string): string {
  return new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex");
}

describe("native files of the executable", () => {
  test("are unpacked once, under their hash; only their owner can change them", () => {
    using folder = temporaryFolder();
    const env = { HOME: folder.make("home") };
    const cold = run([ale, "doctor", "--json"], { env });
    expectWorking(cold);
    const cache = join(env.HOME, ".cache", "ale");
    const files = nativesBelow(cache);
    expect(files.map((path) => basename(path))).toContain("libonnxruntime.so.1");
    const inodes = files.map((path) => statSync(join(cache, path)).ino);
    for (const path of files) {
      expect(hashOf(join(cache, path))).toStartWith(path.split("/")[1] as string);
      // Containers let others run the launcher; nobody else may change anything.
      expect(statSync(join(cache, path)).mode & 0o722).toBe(0o700);
      expect(statSync(join(cache, path, "..")).mode & 0o777).toBe(0o700);
    }
    const warm = run([ale, "doctor", "--json"], { env });
    expectWorking(warm);
    expect(files.map((path) => statSync(join(cache, path)).ino)).toEqual(inodes);
    console.log(`ale doctor: ${cold.ms.toFixed(0)} ms with an empty cache, ${warm.ms.toFixed(0)} ms with a full one`);
  });

  test("a changed file is replaced, whatever its size and times say", () => {
    using folder = temporaryFolder();
    const env = { ALE_CACHE_DIR: folder.make("cache") };
    expectWorking(run([ale, "doctor", "--json"], { env }));
    for (const path of nativesBelow(env.ALE_CACHE_DIR)) {
      const file = join(env.ALE_CACHE_DIR, path);
      const { atime, mtime } = statSync(file);
      const content = readFileSync(file);
      const good = hashOf(file);
      content[5000] = (content[5000] as number) ^ 0xff;
      writeFileSync(file, content);
      utimesSync(file, atime, mtime);
      expect(hashOf(file)).not.toBe(good);
      expectWorking(run([ale, "doctor", "--json"], { env }));
      expect(hashOf(file)).toBe(good);
      writeFileSync(file, content.subarray(0, 1000));
      expectWorking(run([ale, "doctor", "--json"], { env }));
      expect(hashOf(file)).toBe(good);
    }
  });

  test("many first starts at once agree", async () => {
    using folder = temporaryFolder();
    const env = { PATH: process.env.PATH ?? "", ALE_CACHE_DIR: folder.make("cache") };
    const children = Array.from({ length: 6 }, () =>
      Bun.spawn([ale, "doctor", "--json"], { env, stdout: "pipe", stderr: "pipe", timeout: 60_000 }),
    );
    const results = await Promise.all(
      children.map(async (child) => ({
        exitCode: await child.exited,
        stdout: await new Response(child.stdout).text(),
        stderr: await new Response(child.stderr).text(),
        ms: 0,
      })),
    );
    for (const result of results) expectWorking(result);
    const leftOvers = [...new Bun.Glob("**/*.????????").scanSync({ cwd: env.ALE_CACHE_DIR })];
    expect(leftOvers.filter((path) => !path.endsWith(".verified"))).toEqual([]);
  });

  test("its own products with quantised weights say what ONNX Runtime's do", () => {
    using folder = temporaryFolder();
    const model = join(import.meta.dir, "../../models/shell-start");
    const asked = ["--quantization", "int4", "--ids", "330,381,6,416", "--greedy", "--max-tokens", "12", "--json"];
    const answers = ["1", "0"].map((own) => {
      const env = { HOME: folder.path, ALE_CACHE_DIR: folder.path, ALE_BLOCK_PRODUCTS: own };
      const { exitCode, stdout } = run([ale, "generate", "--model", model, ...asked], { env });
      expect(exitCode).toBe(0);
      return JSON.parse(stdout) as { ids: number[]; logprobs: number[] };
    });
    const [own, theirs] = answers as [(typeof answers)[0], (typeof answers)[0]];
    expect(own.ids).toEqual(theirs.ids);
    for (const [i, logprob] of own.logprobs.entries()) expect(logprob).toBeCloseTo(theirs.logprobs[i] as number, 3);
    expect(nativesBelow(folder.path).map((path) => basename(path))).toContain("libale-operators.so");
  });

  test("without HOME they go to the temporary folder", () => {
    using folder = temporaryFolder();
    const result = run([ale, "doctor", "--json"], { env: { TMPDIR: folder.path } });
    expectWorking(result);
    expect(nativesBelow(folder.path).length).toBeGreaterThan(0);
  });

  test.skipIf(process.getuid?.() !== 0)("a cache that others could change is not used", () => {
    using folder = temporaryFolder();
    const open = folder.make("open");
    chmodSync(open, 0o777);
    expectWorking(run([ale, "doctor", "--json"], { env: { ALE_CACHE_DIR: open, HOME: folder.make("home") } }));
    expect(nativesBelow(open)).toEqual([]);
    expect(nativesBelow(join(folder.path, "home", ".cache", "ale")).length).toBeGreaterThan(0);
  });

  for (const [kind, flags] of [
    ["read-only", "ro"],
    ["noexec", "noexec"],
  ] as const) {
    test.skipIf(mounts !== undefined)(titled(`a ${kind} cache is passed over for the next place`, mounts), () => {
      using folder = temporaryFolder();
      const cache = folder.make("cache");
      const script = `mount -t tmpfs -o ${flags} none "$ALE_CACHE_DIR" && exec "$@"`;
      const command = [...mountNamespace(), "sh", "-c", script, "sh", ale, "doctor", "--json"];
      const result = run(command, { env: { ALE_CACHE_DIR: cache, HOME: folder.make("home") } });
      expectWorking(result);
      expect(check(doctorChecks(result), "native files").detail).toContain(join(folder.path, "home"));
    });

    test.skipIf(mounts !== undefined)(titled(`with every place ${kind} they are held in memory`, mounts), () => {
      using folder = temporaryFolder();
      const script = `mount -t tmpfs -o ${flags} none "$HOME" && exec "$@"`;
      const command = [...mountNamespace(), "sh", "-c", script, "sh", ale, "doctor", "--json"];
      const home = folder.make("home");
      const result = run(command, { env: { HOME: home, TMPDIR: home } });
      expectWorking(result);
      expect(check(doctorChecks(result), "native files").detail).toContain("in memory");
      if (kind === "read-only") return; // A sandbox keeps its state in a folder.
      // The launcher runs from memory too: a sandbox works as it does with a cache.
      const usual = run([ale, "doctor", "--json"], { env: { HOME: folder.make("usual") } });
      expect(check(doctorChecks(result), "sandbox").ok).toBe(check(doctorChecks(usual), "sandbox").ok);
    });
  }

  const hidden = mounts ?? toolObstacle("mount");
  test.skipIf(hidden !== undefined)(titled("nothing of the checkout is used", hidden), () => {
    using folder = temporaryFolder();
    const copy = join(folder.make("elsewhere"), "ale");
    copyFileSync(ale, copy);
    chmodSync(copy, 0o755);
    const repository = join(import.meta.dir, "..", "..");
    const script = `mount -t tmpfs none "${repository}" && test ! -e "${repository}/package.json" && exec "$@"`;
    const command = [...mountNamespace(), "sh", "-c", script, "sh", copy, "doctor", "--json"];
    expectWorking(run(command, { env: { HOME: folder.make("home") } }));
  });
});
