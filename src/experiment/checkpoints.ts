/**
 * Checkpoints of a run: `checkpoints/step-000012/` holds weights, optimizer state, config and tokenizer, so each is also a
 * policy folder for `ale eval`. A folder is complete or absent: it is written under another name and renamed.
 */

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { EnginePool } from "../device/engine-pool.ts";
import { syncFolder, writeDurably } from "../models/durable-files.ts";

const NAME = /^step-(\d{6,})$/;

export class Checkpoints {
  readonly #folder: string;
  /** Files every policy folder carries besides the weights, by name. */
  readonly #extras: ReadonlyMap<string, string>;

  constructor(runDir: string, extras: ReadonlyMap<string, string>) {
    this.#folder = join(runDir, "checkpoints");
    this.#extras = extras;
  }

  path(step: number): string {
    return join(this.#folder, `step-${String(step).padStart(6, "0")}`);
  }

  has(step: number): boolean {
    return existsSync(this.path(step));
  }

  /** Saves the published weights as the checkpoint of `step`; keeps one that is already there. */
  async save(engine: EnginePool, step: number): Promise<string> {
    const target = this.path(step);
    if (existsSync(target)) return target;
    mkdirSync(this.#folder, { recursive: true });
    const partial = `${target}.partial`;
    rmSync(partial, { recursive: true, force: true });
    await engine.save(partial);
    for (const [name, content] of this.#extras) writeDurably(join(partial, name), [content]);
    renameSync(partial, target);
    syncFolder(this.#folder);
    return target;
  }

  /** Removes all but the newest `keep` and those in `also`, and whatever was left half-written. */
  prune(keep: number, also: readonly number[]): void {
    if (!existsSync(this.#folder)) return;
    const names = readdirSync(this.#folder);
    const steps = names.flatMap((name) => (NAME.test(name) ? [Number(name.slice(5))] : [])).sort((a, b) => b - a);
    const kept = new Set([...steps.slice(0, keep), ...also]);
    for (const step of steps) {
      if (!kept.has(step)) rmSync(this.path(step), { recursive: true, force: true });
    }
    for (const name of names) {
      if (name.endsWith(".partial")) rmSync(join(this.#folder, name), { recursive: true, force: true });
    }
  }

  /** Removes the checkpoints of steps after `step`, which a resumed run makes again. */
  removeAfter(step: number): void {
    if (!existsSync(this.#folder)) return;
    for (const name of readdirSync(this.#folder)) {
      const match = NAME.exec(name);
      if (match !== null && Number(match[1]) > step) rmSync(join(this.#folder, name), { recursive: true, force: true });
    }
  }
}
