/** What raises an ordinary user's sandboxes to the level `subids`, for `ale doctor`. */

import { readFileSync } from "node:fs";

/** As many as distributions give a new user. */
const COUNT = 65_536;
const FIRST = 100_000;

function read(): string[] {
  return ["/etc/subuid", "/etc/subgid"].map((path) => {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return "";
    }
  });
}

/** The first ids that no range holds yet. */
function firstFree(texts: readonly string[]): number {
  const ends = texts.flatMap((text) =>
    [...text.matchAll(/^[^:\n]*:(\d+):(\d+)/gm)].map(([, first, count]) => Number(first) + Number(count)),
  );
  return Math.max(FIRST, ...ends);
}

/**
 * The command that gives the user what the launcher's probe did not find; `detail` is what that said, `texts` hold the ranges
 * that are given away.
 */
export function subordinateHint(detail: string, texts: readonly string[] = read()): string {
  const steps: string[] = [];
  if (detail.includes("not installed")) steps.push("apt-get install -y uidmap");
  const [, user] = /(\S+) has \d+ ids in/.exec(detail) ?? [];
  if (user !== undefined) {
    const first = firstFree(texts);
    const range = `${first}-${first + COUNT - 1}`;
    steps.push(`usermod --add-subuids ${range} --add-subgids ${range} ${user}`);
  }
  const without = "until then sandboxes share what the kernel counts per user with one another and with you";
  if (steps.length > 0) return `as root: ${steps.join(" && ")}; ${without}`;
  return `start ale where set-user-ID programs work (without no_new_privs), on Linux 6.3 or newer; ${without}`;
}
