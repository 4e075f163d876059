/** A reward function is TypeScript outside of the executable, which has to load it without a compiler at hand. */

import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FromFunction } from "../../src/reward/function-role.ts";
import { executable, temporaryFolder } from "./support.ts";

test("the executable loads TypeScript and answers with its numbers", async () => {
  using folder = temporaryFolder();
  const file = join(folder.path, "mine.ts");
  writeFileSync(
    file,
    `import { createHash } from "node:crypto";
     interface Episode { readonly outcome: number; readonly turns: readonly unknown[] }
     enum Scale { twice = 2 }
     export function reward({ outcome, turns }: Episode): number {
       return Scale.twice * outcome + turns.length + createHash("sha256").update("x").digest().length;
     }`,
  );
  const messages: FromFunction[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const child = Bun.spawn({
    cmd: [executable(), "--ale-role=reward-function", file],
    cwd: folder.path,
    env: {},
    stdio: ["ignore", "ignore", "inherit"],
    serialization: "json",
    ipc: (message: FromFunction, process) => {
      messages.push(message);
      if (message.type === "ready") process.send({ id: 0, episode: { outcome: 1, turns: [{}] } });
      else resolve();
    },
  });
  try {
    await Promise.race([promise, child.exited]);
  } finally {
    child.kill("SIGKILL");
  }
  expect(messages).toEqual([{ type: "ready" }, { type: "value", id: 0, value: 35 }]);
}, 30_000);
