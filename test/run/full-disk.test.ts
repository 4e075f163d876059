/**
 * Runs on disks that fill up under them: everything in one place, only the checkpoints, only `metrics.jsonl`. Each is a small
 * file system of its own, which takes the rights to mount one.
 */

import { afterEach, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, renameSync, rmSync, statfsSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkCommitted, checkFinished, runStatus, type Shape } from "./chaos/checks.ts";
import { type Ended, finish, until, Workspace } from "./support.ts";

const SHAPE: Shape = { steps: 4, groups: 3, groupSize: 4, bound: 0 };
const SETTINGS = [
  ...["--no-serve", "--trainer.steps", `${SHAPE.steps}`, "--rollout.groups", `${SHAPE.groups}`],
  ...["--rollout.groupSize", `${SHAPE.groupSize}`, "--evaluation.every", "0", "--evaluation.dev", "0"],
  ...["--evaluation.heldout", "2", "--sandbox.warm", "4", "--engine.threads", "1"],
];
const WAITS = "the run waits until there is room";
const GOES_ON = "there is room on the disk again; the run goes on";
const KIB = 1024;
const MIB = 1024 * KIB;
/** Of the shipped policy with its optimizer state, a little more than one takes. */
const CHECKPOINT = 12 * MIB;

const mounted: string[] = [];

function command(...words: string[]): { readonly ok: boolean; readonly err: string } {
  const { success, stderr } = Bun.spawnSync(words, { stdio: ["ignore", "ignore", "pipe"] });
  return { ok: success, err: stderr.toString().trim() };
}

/** Mounts a file system of so many bytes on a folder. */
function mount(folder: string, bytes: number): void {
  mkdirSync(folder, { recursive: true });
  const { ok, err } = command("mount", "-t", "tmpfs", "-o", `size=${bytes}`, "ale-test", folder);
  if (!ok) throw new Error(err);
  mounted.push(folder);
}

/** Why these tests cannot run here; undefined when they can. */
function obstacle(): string | undefined {
  using place = new Workspace();
  try {
    mount(place.path("probe"), MIB);
    return undefined;
  } catch (error) {
    return `no file system can be mounted here (${error instanceof Error ? error.message : error})`;
  } finally {
    unmountAll();
  }
}

function unmountAll(): void {
  for (const folder of mounted.splice(0).reverse()) command("umount", "-l", folder);
}

afterEach(unmountAll);

const why = obstacle();
if (why !== undefined) console.log(`skipped: ${why}`);
const withMounts = test.skipIf(why !== undefined);

/** Takes all that is left of a disk, but for `spare` bytes. */
function fill(file: string, spare = 0): void {
  for (;;) {
    const { bavail, bsize } = statfsSync(join(file, ".."));
    const bytes = Math.min(8 * MIB, bavail * bsize - spare);
    if (bytes <= 0) return;
    writeFileSync(file, new Uint8Array(bytes), { flag: "a" });
  }
}

/** A run whose output is read while it goes on. */
function start(place: Workspace) {
  const child = place.ale("run", "experiments/shell.toml", "--out", place.path("run"), ...SETTINGS);
  let said = "";
  const ended = finish(child, (text) => {
    said += text;
  });
  return { ended, said: () => said };
}

/** The run waited for room, said so and went on, and has everything exactly once. */
function expectExactlyOnce(place: Workspace, { code, out, err }: Ended): void {
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  expect(out).toContain(GOES_ON);
  expect(checkCommitted(join(place.home, "ale.db"), place.path("run"), SHAPE, SHAPE.steps).problems).toEqual([]);
  expect(checkFinished(place.path("run"), SHAPE)).toEqual([]);
}

withMounts(
  "a disk that is full for a while",
  async () => {
    using place = new Workspace();
    mount(place.folder, 20 * CHECKPOINT);
    const run = start(place);
    await until("step 1", () => place.metrics("run").length > 1);
    fill(place.path("filler"));
    await until("the warning", () => run.said().includes(WAITS));
    // A step whose checkpoint is written may still find room for its commit in pages that are there.
    await Bun.sleep(2000);
    const before = place.metrics("run").length;
    expect(before).toBeLessThanOrEqual(SHAPE.steps);
    await Bun.sleep(2000);
    expect(place.metrics("run").length).toBe(before);
    rmSync(place.path("filler"));
    expectExactlyOnce(place, await run.ended);
    unmountAll();
  },
  120_000,
);

withMounts(
  "a disk that cannot hold the parameters: the run does not wait, and says why it fails",
  async () => {
    using place = new Workspace();
    mount(place.path("run"), CHECKPOINT);
    const { code, err } = await start(place).ended;
    expect(code).toBe(1);
    expect(err).toContain(`cannot grow ${place.path("run", "state", "parameters.bin")}`);
    expect(runStatus(join(place.home, "ale.db"), place.path("run"))).toBe("failed");
    unmountAll();
  },
  60_000,
);

withMounts(
  "a checkpoint that does not fit",
  async () => {
    using place = new Workspace();
    const checkpoints = place.path("run", "checkpoints");
    const run = start(place);
    await until("the run", () => run.said().includes("results"));
    // One fits and a part of the next.
    mount(checkpoints, CHECKPOINT + CHECKPOINT / 2);
    await until("the warning", () => run.said().includes(WAITS));
    expect(run.said()).toMatch(new RegExp(`cannot write ${checkpoints}/step-\\d+\\.partial/.*: the run waits`));
    expect(command("mount", "-o", `remount,size=${20 * CHECKPOINT}`, checkpoints).ok).toBe(true);
    expectExactlyOnce(place, await run.ended);
    unmountAll();
  },
  120_000,
);

withMounts(
  "a line of metrics.jsonl that fits only in part",
  async () => {
    using place = new Workspace();
    const run = start(place);
    await until("step 1", () => place.metrics("run").length > 1);
    // A line has some KiB and ends in the middle of the last page.
    mount(place.path("small"), 64 * KIB);
    const file = place.path("run", "metrics.jsonl");
    copyFileSync(file, place.path("small", "metrics.jsonl"));
    fill(place.path("small", "filler"));
    symlinkSync(place.path("small", "metrics.jsonl"), place.path("link"));
    renameSync(place.path("link"), file);
    await until("the warning", () => run.said().includes(WAITS));
    expect(run.said()).toContain(`no space left for ${file}: the run waits`);
    rmSync(place.path("small", "filler"));
    expectExactlyOnce(place, await run.ended);
    unmountAll();
  },
  120_000,
);
