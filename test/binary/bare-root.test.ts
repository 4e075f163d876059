import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { addBusybox, bareRootObstacle, busyboxObstacle, makeBareRoot, runInRoot } from "./bare-root.ts";
import {
  check,
  doctorChecks,
  executable,
  mountNamespaceObstacle,
  shippedPolicyObstacle,
  shortRun,
  temporaryFolder,
  titled,
} from "./support.ts";

let ale = "";
beforeAll(() => {
  ale = executable();
}, 300_000);

const obstacle = bareRootObstacle() ?? mountNamespaceObstacle();

describe("a root with six files of glibc and /proc", () => {
  test.skipIf(obstacle !== undefined)(titled("ale doctor works", obstacle), () => {
    using folder = temporaryFolder();
    makeBareRoot(folder.path, ale);
    const result = runInRoot(folder.path, ["/ale", "doctor", "--json"]);
    const checks = doctorChecks(result);
    for (const name of ["ONNX Runtime", "libSQL"]) expect(check(checks, name)).toMatchObject({ ok: true });
    // There is no C++ runtime but the one the executable brings.
    expect([...new Bun.Glob("**/libstdc++.so.6").scanSync({ cwd: folder.path, dot: true })]).toHaveLength(1);
  });
});

const runObstacle = obstacle ?? busyboxObstacle() ?? shippedPolicyObstacle();

describe("the same with busybox", () => {
  test.skipIf(runObstacle !== undefined)(
    titled("ale run trains and writes its results", runObstacle),
    () => {
      using folder = temporaryFolder();
      makeBareRoot(folder.path, ale);
      addBusybox(folder.path, Bun.which("busybox") as string);
      writeFileSync(join(folder.path, "etc", "passwd"), "root:x:0:0:root:/root:/bin/sh\n");
      const env = { PATH: "/bin", HOME: "/root" };
      const result = runInRoot(folder.path, ["/ale", ...shortRun("/root/run")], { env, timeoutMs: 100_000 });
      expect({ exitCode: result.exitCode, stderr: result.stderr }).toMatchObject({ exitCode: 0 });
      const summary = JSON.parse(readFileSync(join(folder.path, "root", "run", "summary.json"), "utf8"));
      expect(summary).toMatchObject({ status: "finished", algorithm: "grpo", seed: 5, steps: 2 });
      expect(summary.isolation).toContain("seccomp");
      expect(summary.heldOut.final.n).toBe(14);
      for (const name of ["metrics.jsonl", "trajectories.parquet", "report.html", "policy/model.safetensors"]) {
        expect({ name, there: existsSync(join(folder.path, "root", "run", name)) }).toEqual({ name, there: true });
      }
      const listed = runInRoot(folder.path, ["/ale", "runs", "ls"], { env });
      expect(listed.stdout).toContain("finished");
    },
    120_000,
  );
});
