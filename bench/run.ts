/** `bun run bench [NAME] [--help | ARGUMENT …]`: runs one of the side-by-side benchmarks of this folder, or lists them. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Files of this folder that benchmarks share. */
const SHARED = new Set([
  "run.ts",
  "peers.ts",
  "qwen2-gguf.ts",
  "load-api.ts",
  "load-memory.ts",
  "load-run.ts",
  "churn-life.ts",
  "churn-run.ts",
  "inventory.ts",
]);

const names = readdirSync(import.meta.dir)
  .filter((file) => file.endsWith(".ts") && !file.endsWith(".test.ts") && !SHARED.has(file))
  .map((file) => file.slice(0, -3))
  .sort();

const [name, ...rest] = process.argv.slice(2);
const source =
  name !== undefined && names.includes(name) ? readFileSync(join(import.meta.dir, `${name}.ts`), "utf8") : "";
if (source !== "" && rest.includes("--help") && !source.includes("help: {")) {
  // what has no help of its own is described by the comment that it begins with
  const comment = source.slice(source.indexOf("/**") + 3, source.indexOf("*/"));
  console.log(comment.replaceAll(/^ \* ?/gm, "").trim());
} else if (source !== "") {
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
