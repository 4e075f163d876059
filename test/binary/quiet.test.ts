import { beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  executable,
  mountNamespace,
  mountNamespaceObstacle,
  run,
  shippedPolicyObstacle,
  shortRun,
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
  /** Outgoing calls and programs started, while `ale` runs where no network exists. */
  function traceOf(
    folder: string,
    args: readonly string[],
  ): { connections: string[]; programs: string[]; out: string } {
    const trace = join(folder, "trace");
    const strace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg,execve", "-o", trace];
    const command = [...mountNamespace("--net"), ...strace, ale, ...args];
    const { stdout, stderr } = run(command, { env: { HOME: join(folder, "home") }, timeoutMs: 150_000 });
    const calls = readFileSync(trace, "utf8").split("\n");
    return {
      connections: calls.filter((call) => /AF_INET6?\b/.test(call)),
      programs: calls.flatMap((call) => /execve\("([^"]*)"/.exec(call)?.[1] ?? []),
      out: stdout + stderr,
    };
  }

  test.skipIf(obstacle !== undefined)(
    titled("doctor tries no connection, even where none is possible", obstacle),
    () => {
      using folder = temporaryFolder();
      const { connections, programs, out } = traceOf(folder.path, ["doctor"]);
      expect(out).toContain("ONNX Runtime");
      expect(connections).toEqual([]);
      expect(programs).toContain(ale);
      expect(programs.filter((path) => /\/(curl|wget)$/.test(path))).toEqual([]);
    },
  );

  const runObstacle = obstacle ?? shippedPolicyObstacle();
  test.skipIf(runObstacle !== undefined)(
    titled("nor does a run", runObstacle),
    () => {
      using folder = temporaryFolder();
      const { connections, programs, out } = traceOf(folder.path, shortRun(join(folder.path, "run")));
      expect(out).toContain('"status":"finished"');
      expect(connections).toEqual([]);
      // The engine is the executable again; everything else are the commands of tasks.
      expect(programs).toContain("/proc/self/exe");
      expect(programs.filter((path) => /\/(curl|wget)$/.test(path))).toEqual([]);
    },
    180_000,
  );
});
