import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { addBusybox, bareRootObstacle, makeBareRoot, runInRoot } from "./bare-root.ts";
import {
  check,
  doctorChecks,
  executable,
  mountNamespaceObstacle,
  type Obstacle,
  REPOSITORY,
  run,
  temporaryFolder,
  titled,
  toolObstacle,
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

/** The shipped experiment, cut to two steps. */
const SHORT_RUN = [
  ...["run", "experiments/shell.toml", "--out", "/root/run", "--json", "--seed", "5", "--service.port", "0"],
  ...["--trainer.steps", "2", "--rollout.groups", "2", "--rollout.groupSize", "4"],
  ...["--evaluation.every", "2", "--evaluation.dev", "14", "--evaluation.heldout", "14"],
];

function shippedPolicyObstacle(): Obstacle {
  const config = readFileSync(join(REPOSITORY, "experiments", "shell.toml"), "utf8");
  const path = /^path = "(.+)"$/m.exec(config)?.[1];
  return path !== undefined && existsSync(join(REPOSITORY, path)) ? undefined : `${path} is not there yet`;
}

function staticObstacle(): Obstacle {
  const dynamic = run(["ldd", Bun.which("busybox") as string]).exitCode === 0;
  return dynamic ? "busybox is not static (apt-get install busybox-static)" : undefined;
}

const runObstacle = obstacle ?? toolObstacle("busybox") ?? staticObstacle() ?? shippedPolicyObstacle();

describe("the same with busybox", () => {
  test.skipIf(runObstacle !== undefined)(
    titled("ale run trains and writes its results", runObstacle),
    () => {
      using folder = temporaryFolder();
      makeBareRoot(folder.path, ale);
      addBusybox(folder.path, Bun.which("busybox") as string);
      writeFileSync(join(folder.path, "etc", "passwd"), "root:x:0:0:root:/root:/bin/sh\n");
      const env = { PATH: "/bin", HOME: "/root" };
      const result = runInRoot(folder.path, ["/ale", ...SHORT_RUN], { env, timeoutMs: 100_000 });
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
