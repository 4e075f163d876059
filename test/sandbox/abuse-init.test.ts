/** Attacks on what runs a sandbox: the launcher's executable, its init, the channels of its shell, and what a name could be. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { launcherPath } from "../../src/sandbox/launcher-path.ts";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import {
  compileProbe,
  ENVIRONMENT,
  file,
  LIMITS,
  openProvider,
  outcome,
  output,
  type TestProvider,
  text,
} from "./support.ts";

const environment = { ...ENVIRONMENT, pids: 64 };
let provider: TestProvider;
let sandbox: NativeSandbox;
let neighbour: NativeSandbox;
let program: Uint8Array;
beforeAll(async () => {
  provider = await openProvider();
  program = await compileProbe("intrusions");
  [sandbox, neighbour] = await Promise.all([attacked(), attacked()]);
});
afterAll(() => provider?.close());

async function attacked(): Promise<NativeSandbox> {
  const made = await provider.create(environment);
  await made.upload("/probe", [file("intrusions", program, 0o755)]);
  return made;
}

const inFolder = { ...LIMITS, cwd: "/work" };

test("the launcher's executable, memory and descriptors cannot be had, not even while init becomes a program", async () => {
  const path = await launcherPath();
  const before = Bun.hash(readFileSync(path));
  const attack = sandbox.run("/probe/intrusions executable 2", LIMITS);
  // Each of these is cloned from init, and for a moment runs the launcher's own code.
  while (await Promise.race([attack.then(() => false), Bun.sleep(0).then(() => true)]))
    await Promise.all(Array.from({ length: 8 }, () => sandbox.exec(["true"], inFolder)));
  const found = text((await attack).output);
  expect(found).toBe(
    "looks 1\nforeign 0\nopened 0\nmemory 0\ndescriptors 0\ninit-exe EACCES\ninit-exe-write EACCES\ninit-map-files EACCES\n",
  );
  expect(Bun.hash(readFileSync(path))).toBe(before);
  expect(await output(neighbour, "echo on")).toBe("on\n");
}, 30_000);

test("an exit code forged in the shell's channel is the agent's own command's, and no other's", async () => {
  const own = await attacked();
  await using _ = own;
  const all = Array.from({ length: 40 }, (_unused, i) => `${i} 0`).join("\n");
  const forging = `(while :; do /probe/intrusions forge $$ '${all}\n' >/dev/null; sleep 0.02; done) & sleep 0.2`;
  await own.run(forging, LIMITS);
  // Programs that we run ourselves, verifiers among them, are waited for by init: nothing the agent writes counts.
  for (const code of [0, 7, 9]) expect((await own.exec(["sh", "-c", `exit ${code}`], inFolder)).exitCode).toBe(code);
  expect(await outcome(neighbour, "exit_code() { return 5; }; exit_code")).toEqual([5, ""]);
  await own.killAll();
  for (const code of [3, 0]) expect((await own.run(`(exit ${code})`, LIMITS)).exitCode).toBe(code);
  expect(await output(own, "echo on")).toBe("on\n");
}, 30_000);

test("garbage in the shell's channels ends at most the shell", async () => {
  const own = await attacked();
  await using _ = own;
  const garbage = ["x", "-1 -1", "99999999999999999999 1", "1", "% d", "0".repeat(5000), "\\x00\\xff"].join("\n");
  const command = `/probe/intrusions forge $$ "$(printf '${garbage}')"; sleep 0.1; echo end`;
  const result = await own.run(command, { ...LIMITS, timeoutMs: 3000 });
  expect(["exited", "shell_died", "timeout"]).toContain(result.status);
  expect(await own.exec(["echo", "on"], inFolder)).toMatchObject({ exitCode: 0 });
  // What is left of the garbage may spoil a command or two of the agent's own, each within its time.
  await own.run("echo again", { ...LIMITS, timeoutMs: 3000 });
  await own.killAll();
  expect(await outcome(own, "echo on")).toEqual([0, "on\n"]);
});

test("init and what it started cannot be followed into its namespaces, root or working folder", async () => {
  const tries = [
    "root/etc/hostname",
    "cwd",
    "ns/net",
    "ns/user",
    "fdinfo/3",
    "task/1/mem",
    "environ",
    "auxv",
    "syscall",
    "stack",
  ];
  const found = await output(sandbox, tries.map((name) => `cat /proc/1/${name} >/dev/null 2>&1; echo $?`).join("; "));
  expect(found.trim().split("\n")).toEqual(tries.map(() => "1"));
  // What says nothing of the host's may be read.
  expect(await output(sandbox, "cut -d' ' -f2 /proc/1/stat")).toBe("(init)\n");
});

test("the id maps cannot be written anew, nor limits of the namespace raised", async () => {
  const before = await output(sandbox, "cat /proc/self/uid_map /proc/self/gid_map");
  const share = await output(sandbox, "cat /proc/sys/user/max_inotify_instances");
  expect(Number(share)).toBeGreaterThanOrEqual(4);
  expect(Number(share)).toBeLessThanOrEqual(32);
  await sandbox.run("echo 0 0 4294967295 > /proc/self/uid_map; echo 0 0 4294967295 > /proc/1/gid_map", LIMITS);
  await sandbox.run("for f in /proc/sys/user/*; do echo 100000 > $f; done; echo allow > /proc/self/setgroups", LIMITS);
  expect(await output(sandbox, "cat /proc/self/uid_map /proc/self/gid_map")).toBe(before);
  expect(await output(sandbox, "cat /proc/sys/user/max_inotify_instances")).toBe(share);
});

test("texts that ask for the host's variables are texts", async () => {
  process.env.ALE_ABUSE_SECRET = "host-secret";
  const asking =
    "${ALE_ABUSE_SECRET} $ALE_ABUSE_SECRET $(printenv ALE_ABUSE_SECRET) {{ALE_ABUSE_SECRET}} %ALE_ABUSE_SECRET%";
  await sandbox.upload("/work", [file("asking", asking)]);
  expect(await output(sandbox, `cat /work/asking; echo "${asking}"; env`)).not.toContain("host-secret");
  const environmentOf = await sandbox.exec(["env"], { ...inFolder, env: { A: "${ALE_ABUSE_SECRET}" } });
  expect(text(environmentOf.output)).toContain("A=${ALE_ABUSE_SECRET}\n");
  delete process.env.ALE_ABUSE_SECRET;
});
