/** Where results go: what cannot be written is a failure, and a reader that has enough is none. */

import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { selfCommand } from "../../src/device/self.ts";

const MAIN = selfCommand("engine").slice(0, -1);

function shell(script: string): { code: number; out: string; err: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["bash", "-c", script, "bash", ...MAIN], {
    cwd: join(import.meta.dir, "../.."),
    stdio: ["ignore", "pipe", "pipe"],
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

test("a full disk", () => {
  const { code, err } = shell('"$@" config show > /dev/full');
  expect(code).toBe(1);
  expect(err).toStartWith("error: the output could not be written: ENOSPC");
});

test("a reader that leaves early", () => {
  expect(shell('set -o pipefail; "$@" config show | head -1')).toMatchObject({ code: 0, err: "" });
});

test("a run outlives the reader of its output", () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-output-"));
  try {
    const settings = "--trainer.steps 1 --rollout.groups 2 --evaluation.dev 0 --evaluation.heldout 2 --no-serve";
    const places = `--out ${folder}/run --store ${folder}/ale.db`;
    const { code, err } = shell(`set -o pipefail; "$@" run experiments/shell.toml ${settings} ${places} | head -1`);
    expect(code).toBe(0);
    expect(err).toContain("nobody reads the output any more; the run goes on");
    const summary = JSON.parse(readFileSync(join(folder, "run", "summary.json"), "utf8"));
    expect(summary).toMatchObject({ status: "finished", steps: 1 });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 60_000);

test("a port that is taken is refused before anything of the run exists", () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-output-"));
  const other = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("mine") });
  try {
    const { code, err } = shell(
      `"$@" run experiments/shell.toml --service.port ${other.port} --out ${folder}/run --store ${folder}/ale.db`,
    );
    expect(code).toBe(2);
    expect(err).toContain(`port ${other.port} of 127.0.0.1 is in use`);
    expect(readdirSync(folder)).toEqual([]);
  } finally {
    other.stop(true);
    rmSync(folder, { recursive: true, force: true });
  }
});

test("an evaluation whose tests give no number prints what it has, and fails", () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-output-"));
  try {
    const files = {
      "task.toml": '[environment]\nprofile = "host"\n',
      "instruction.md": "Do nothing.\n",
      "tests/test.sh": "echo many > /logs/verifier/reward.txt\n",
    };
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, "one", path)), { recursive: true });
      writeFileSync(join(folder, "one", path), text);
    }
    const { code, out } = shell(`"$@" eval ${folder} --policy noop --samples 1 --json`);
    expect(code).toBe(1);
    expect(JSON.parse(out)).toMatchObject({ n: 1, rate: 0, error: expect.stringContaining('"many"') });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
