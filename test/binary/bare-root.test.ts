import { beforeAll, describe, expect, test } from "bun:test";
import { bareRootObstacle, makeBareRoot, runInRoot } from "./bare-root.ts";
import { check, doctorChecks, executable, mountNamespaceObstacle, temporaryFolder, titled } from "./support.ts";

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
