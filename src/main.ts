/**
 * Where every process of Ale begins. It decides what this process is and loads only that: the version costs nothing, an
 * engine does not load the command line. Nothing from `node:` is imported here, and `console.log` is used because making
 * the stream object `process.stdout` alone takes longer than everything else `ale --version` does.
 */

import { VERSION } from "./core/version.ts";
import { ROLE_ARGUMENT } from "./device/role.ts";

const [first, ...rest] = process.argv.slice(2);

if (rest.length === 0 && (first === "--version" || first === "-V")) {
  console.log(`ale ${VERSION}`);
} else if (first?.startsWith(ROLE_ARGUMENT)) {
  const { runRole } = await import("./start.ts");
  await runRole(first.slice(ROLE_ARGUMENT.length));
} else {
  const { runCommandLine } = await import("./start.ts");
  await runCommandLine(process.argv.slice(2));
}
