/** `bun run bench [NAME] [ARGUMENT …]`: runs one of the side-by-side benchmarks of this folder, or lists them. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Files of this folder that benchmarks share. */
const SHARED = new Set([
  "run.ts",
  "peers.ts",
  "qwen2-gguf.ts",
  "load-api.ts",
  "load-run.ts",
  "churn-life.ts",
  "churn-run.ts",
  "inventory.ts",
]);

const names = readdirSync(import.meta.dir)
  .filter((file) => file.endsWith(".ts") && !SHARED.has(file))
  .map((file) => file.slice(0, -3))
  .sort();

const [name, ...rest] = process.argv.slice(2);
if (name !== undefined && names.includes(name)) {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, `${name}.ts`), ...rest], {
    stdio: ["inherit", "inherit", "inherit"],
  });
  process.exitCode = await child.exited;
} else {
  if (name !== undefined) console.error(`there is no benchmark ${name}`);
  for (const each of names) {
    const about = /\/\*\*\s*\*?\s*([^\n*]+)/.exec(readFileSync(join(import.meta.dir, `${each}.ts`), "utf8"))?.[1];
    console.log(`${each.padEnd(12)} ${about?.trim() ?? ""}`);
  }
  process.exitCode = name === undefined ? 0 : 2;
}
