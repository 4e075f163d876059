/** Scripted agents in real sandboxes: what the tests of this folder start from. */

import { afterAll, beforeAll } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Task } from "../../src/core/types.ts";
import { createSandboxProvider, type NativeSandboxProvider } from "../../src/sandbox/supervisor.ts";
import { loadSuite } from "../../src/tasks/suite.ts";
import { trainBpe } from "../../src/tokens/bpe-trainer.ts";
import { BpeTokenizer } from "../../src/tokens/tokenizer.ts";

/** A tokenizer of the specials, the bytes and one merge. */
export const tokenizer = new BpeTokenizer(trainBpe(["echo"], 262), "test");

/** Sandboxes for the tests of one file, and one instance of a family of the shell suite; both are there when a test runs. */
export class Scene {
  #provider: NativeSandboxProvider | undefined;
  readonly task: Task;

  constructor(family: string) {
    this.task = loadSuite("tasks/shell").render(family, "train", 1);
    const stateDir = mkdtempSync(join(tmpdir(), "ale-rollout-"));
    beforeAll(async () => {
      this.#provider = await createSandboxProvider({ maskPaths: [], stateDir });
    });
    afterAll(async () => {
      await this.#provider?.close();
      rmSync(stateDir, { recursive: true, force: true });
    });
  }

  get provider(): NativeSandboxProvider {
    if (this.#provider === undefined) throw new Error("no test runs yet");
    return this.#provider;
  }

  /** The commands that solve the task. */
  get solution(): readonly string[] {
    return this.task.demonstrations.find(({ kind }) => kind === "expert")?.commands ?? [];
  }
}
