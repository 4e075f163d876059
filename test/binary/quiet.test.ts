import { beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  executable,
  mountNamespace,
  mountNamespaceObstacle,
  run,
  temporaryFolder,
  titled,
  toolObstacle,
} from "./support.ts";

let ale = "";
beforeAll(() => {
  ale = executable();
}, 300_000);

/** Files that ONNX Runtime's telemetry leaves in the temporary folder. */
function telemetryLogs(): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith("mat-debug"));
}

describe("the executable keeps to itself", () => {
  test("no telemetry store is made, here or in HOME", () => {
    using folder = temporaryFolder();
    const before = telemetryLogs();
    const home = folder.make("home");
    run([ale, "doctor"], { env: { HOME: home } });
    const files = [...new Bun.Glob("**").scanSync({ cwd: home, dot: true })];
    expect(files.filter((path) => !/^\.cache\/ale\/|^\.local\/share\/ale\//.test(path))).toEqual([]);
    expect(telemetryLogs()).toEqual(before);
  });

  const untraceable = toolObstacle("strace");
  test.skipIf(untraceable !== undefined)(titled("no debugger listens", untraceable), () => {
    using folder = temporaryFolder();
    writeFileSync(join(folder.path, "main.ts"), "await Bun.sleep(50);");
    const built = run([process.execPath, "build", "--compile", "main.ts", "--outfile", "main"], { cwd: folder.path });
    expect(built.exitCode).toBe(0);
    const env = { HOME: folder.make("home"), BUN_INSPECT: "127.0.0.1:45871" };
    const binds = (command: readonly string[]): boolean => {
      const trace = join(folder.path, "trace");
      run(["strace", "-f", "-qq", "-e", "trace=bind", "-o", trace, ...command], { env });
      return readFileSync(trace, "utf8").includes("htons(45871)");
    };
    expect(binds([join(folder.path, "main")])).toBe(true);
    expect(binds([ale, "doctor"])).toBe(false);
  });

  const obstacle = toolObstacle("strace") ?? mountNamespaceObstacle("--net");
  test.skipIf(obstacle !== undefined)(
    titled("no connection is tried, not even where none is possible", obstacle),
    () => {
      using folder = temporaryFolder();
      const trace = join(folder.path, "trace");
      const strace = ["strace", "-f", "-qq", "-e", "trace=network,execve", "-o", trace];
      const result = run([...mountNamespace("--net"), ...strace, ale, "doctor"], {
        env: { HOME: folder.make("home") },
      });
      expect(result.stdout).toContain("ONNX Runtime");
      const calls = readFileSync(trace, "utf8").split("\n");
      const outgoing = calls.filter(
        (call) => /\b(connect|sendto|sendmsg|sendmmsg)\(/.test(call) && /AF_INET6?/.test(call),
      );
      expect(outgoing).toEqual([]);
      expect(calls.some((call) => call.includes("execve("))).toBe(true);
      expect(calls.filter((call) => /execve\(".*(curl|wget)"/.test(call))).toEqual([]);
    },
  );
});
