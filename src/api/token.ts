/** The token that changes of state need: random, in a file that only its owner can read. */

import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { chmodSync, closeSync, lstatSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { AleError, errorMessage } from "../core/errors.ts";

const BYTES = 32;

/** The token in `path`, which is made (mode 0600) when it is missing. Throws `AleError("service")`. */
export function loadToken(path: string): string {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    return createToken(path) ?? readToken(path);
  } catch (cause) {
    if (cause instanceof AleError) throw cause;
    throw new AleError("service", `the token of the service, ${path}, cannot be used: ${errorMessage(cause)}`, {
      hint: "set ALE_HOME to a folder you may write to",
      cause,
    });
  }
}

/** Undefined where the file exists: two processes may start at once, and both must get the same token. */
function createToken(path: string): string | undefined {
  let file: number;
  try {
    file = openSync(path, "wx", 0o600);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return undefined;
    throw error;
  }
  try {
    const token = randomBytes(BYTES).toString("base64url");
    writeSync(file, `${token}\n`);
    return token;
  } finally {
    closeSync(file);
  }
}

function readToken(path: string): string {
  const status = lstatSync(path);
  if (!status.isFile() || status.uid !== process.getuid?.()) {
    throw new AleError("service", `${path} is not a file of this user`, { hint: "remove it; a new one is made" });
  }
  if ((status.mode & 0o077) !== 0) chmodSync(path, 0o600);
  const token = readFileSync(path, "utf8").trim();
  if (/^[A-Za-z0-9_-]{20,}$/.test(token)) return token;
  throw new AleError("service", `${path} holds no token`, { hint: "remove it; a new one is made" });
}

/** Equal, without saying by the time it takes how much of it is. */
export function tokensMatch(given: string, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}
