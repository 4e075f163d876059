/** Where results go: what cannot be written is a failure, and a reader that has enough is none. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { selfCommand } from "../../src/device/self.ts";

const MAIN = selfCommand("engine").slice(0, -1);

function shell(script: string): { code: number; err: string } {
  const { exitCode, stderr } = Bun.spawnSync(["bash", "-c", script, "bash", ...MAIN], {
    cwd: join(import.meta.dir, "../.."),
    stdio: ["ignore", "pipe", "pipe"],
  });
  return { code: exitCode, err: stderr.toString() };
}

test("a full disk", () => {
  const { code, err } = shell('"$@" config show > /dev/full');
  expect(code).toBe(1);
  expect(err).toStartWith("error: the output could not be written: ENOSPC");
});

test("a reader that leaves early", () => {
  expect(shell('set -o pipefail; "$@" config show | head -1')).toEqual({ code: 0, err: "" });
});
