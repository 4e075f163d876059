/** A process that was stopped (Ctrl-Z and `fg`) longer than its deadlines goes on. */

import { expect, test } from "bun:test";
import { deadline } from "../../src/core/errors.ts";

test("a limit that passed while the process could not run begins anew; one that passed while it could does not", async () => {
  const answered = Promise.withResolvers<string>();
  const waiting = deadline("an answer", 500, answered.promise);
  setTimeout(() => answered.resolve("there"), 2800);
  Bun.sleepSync(2700); // as if stopped: no timer fires
  expect(await waiting).toBe("there");
  await expect(deadline("an answer", 50, new Promise(() => {}))).rejects.toThrow("did not finish within 50 ms");
});
