/**
 * Where every process of Ale begins. It decides what this process is and loads only that: the version costs nothing, an
 * engine does not load the command line.
 */

import { VERSION } from "./core/version.ts";
import { ROLE_ARGUMENT } from "./device/self.ts";

const [first, ...rest] = process.argv.slice(2);

if (rest.length === 0 && (first === "--version" || first === "-V")) {
  process.stdout.write(`ale ${VERSION}\n`);
} else if (first?.startsWith(ROLE_ARGUMENT)) {
  const { runRole } = await import("./start.ts");
  await runRole(first.slice(ROLE_ARGUMENT.length));
} else {
  const { runCommandLine } = await import("./start.ts");
  await runCommandLine(process.argv.slice(2));
}
