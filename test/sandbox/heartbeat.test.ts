/** A launcher that is stopped, or whose factory is, keeps its pipes open: it has to be asked to be found out. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { listWaits } from "../../src/core/waits.ts";
import { ENVIRONMENT, openProvider, output, until } from "./support.ts";

/** A quick one, so that the test is; how long it may take in a run is `HEARTBEAT`'s matter. */
const HEARTBEAT = { everyMs: 50, withinMs: 2500 };
const native = process.env.ALE_TEST_BACKEND === undefined;

function childOf(pid: number, name: string): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
  const found = children.find((child) => readFileSync(`/proc/${child}/comm`, "utf8").trim() === name);
  if (found === undefined) throw new Error(`launcher ${pid} has no ${name}`);
  return found;
}

for (const who of ["launcher", "factory"] as const) {
  test.skipIf(!native)(
    `a ${who} that was stopped is named, ended and replaced`,
    async () => {
      const provider = await openProvider({ heartbeat: HEARTBEAT });
      const restarts: [string, number][] = [];
      provider.onRestart?.((...restart) => restarts.push(restart));
      try {
        const sandbox = await provider.create(ENVIRONMENT);
        const launcher = provider.launcherPid;
        const command = sandbox.run("sleep 60", { timeoutMs: 60_000, maxOutputBytes: 100 });
        command.catch(() => {});
        process.kill(who === "launcher" ? launcher : childOf(launcher, "ale-factory"), "SIGSTOP");
        const sign = `a sign of life of the sandbox launcher, process ${launcher}`;
        await until("the wait to be listed", 2500, () =>
          listWaits().some(({ forWhat, since }) => forWhat === sign && Date.now() - since > 500),
        );
        const [wait] = listWaits().filter(({ forWhat }) => forWhat === sign);
        expect(wait).toMatchObject({ who: "sandboxes", deadline: (wait?.since ?? 0) + HEARTBEAT.withinMs });
        await expect(command).rejects.toThrow("it gave no sign of life for 2.5 s");
        expect(restarts).toEqual([[expect.stringContaining("it gave no sign of life for 2.5 s"), 1]]);
        await using next = await provider.create(ENVIRONMENT);
        expect(await output(next, "echo on")).toBe("on\n");
        expect(provider.launcherPid).not.toBe(launcher);
        await sandbox.destroy();
        expect(readdirSync(provider.stateDir)).toHaveLength(1);
      } finally {
        await provider.close();
      }
      expect(restarts).toHaveLength(1);
    },
    30_000,
  );
}
