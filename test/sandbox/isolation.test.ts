/** What a hostile program in a sandbox can reach: nothing of the host's, of ours, or of its neighbours'. */

import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { setProfileTexts } from "../../src/sandbox/profile-texts.ts";
import {
  compileProbe,
  ENVIRONMENT,
  file,
  LIMITS,
  openProvider,
  outcome,
  output,
  type TestProvider,
} from "./support.ts";

afterEach(() => setProfileTexts(undefined));

let provider: TestProvider;
let sandbox: NativeSandbox;
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale-isolation-"));
  process.env.ALE_TEST_SECRET = "host-secret";
  provider = await openProvider({ maskPaths: [process.execPath] });
  sandbox = await provider.create(ENVIRONMENT);
  await sandbox.upload("/tmp/probe", [file("probe", await compileProbe(), 0o755)]);
});
afterAll(async () => {
  await provider?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function probe(kind: string): Promise<Record<string, string>> {
  const lines = (await output(sandbox, `/tmp/probe/probe ${kind}`)).trim().split("\n");
  return Object.fromEntries(lines.map((line) => line.split(" ") as [string, string]));
}

test("system calls that reach beyond the sandbox are denied", async () => {
  const found = await probe("calls");
  const allowed = ["pidfd-init", "setuid-root-again", "dumpable", "pty", "ptrace-own-child"];
  for (const [name, result] of Object.entries(found)) {
    if (allowed.includes(name)) expect([name, result]).toEqual([name, "works"]);
    else expect([name, result]).toEqual([name, expect.stringMatching(/^(EPERM|EACCES|ENOSYS)$/)]);
  }
  expect(Object.keys(found).length).toBe(50);
  expect((await probe("int80"))["i386-getpid"]).toBe("ENOSYS");
});

test("socket families: local, IP, and the kernel's own; no vsock", async () => {
  const found = await probe("sockets");
  const allowed = { unix: "works", inet: "works", inet6: "works", netlink: "works", raw: "EPERM" };
  expect(found).toMatchObject(allowed);
  for (const [name, result] of Object.entries(found))
    if (!(name in allowed)) expect([name, result]).toEqual([name, "EAFNOSUPPORT"]);
});

test("no network: nothing outside answers, nor does the host's loopback", async () => {
  expect(await output(sandbox, "/tmp/probe/probe connect")).toBe("connect ENETUNREACH\n".repeat(3));
  const server = createServer((socket) => socket.end("host")).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  expect(await output(sandbox, `(exec 3<>/dev/tcp/127.0.0.1/${port}) 2>&1 | grep -o 'refused$' | uniq`)).toBe(
    "refused\n",
  );
  server.close();
  expect(await output(sandbox, "cat /proc/net/dev | awk 'NR>2{print $1}'; grep -c @ /proc/net/unix")).toBe("lo:\n0\n");
});

test("the host's files, environment, processes and groups are not there", async () => {
  writeFileSync(join(folder, "secret"), "host-secret");
  expect(await output(sandbox, `cat ${folder}/secret 2>&1; ls -A /root /home /srv /mnt /opt /run`)).toBe(
    `cat: ${folder}/secret: No such file or directory\n/home:\n\n/mnt:\n\n/opt:\n\n/root:\n\n/run:\n\n/srv:\n`,
  );
  expect(await output(sandbox, "env; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")).not.toContain(
    "host-secret",
  );
  expect(await output(sandbox, "ls -d /proc/[0-9]* | wc -l")).toMatch(/^[2-6]\n$/);
  expect(await output(sandbox, "tr -s '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm")).toBe("ale init\n");
  expect(await output(sandbox, "cut -d: -f3 /proc/self/cgroup | sort -u")).not.toContain("ale");
  expect(await output(sandbox, "cat /proc/mounts /proc/self/mountinfo")).not.toContain(provider.stateDir);
  expect(await output(sandbox, "ls /sys 2>&1; hostname")).toBe(
    "ls: cannot access '/sys': No such file or directory\nsandbox\n",
  );
});

test("init cannot be stopped or ended from inside", async () => {
  await sandbox.run("kill -9 1; kill -STOP 1; kill -INT 1; kill -TERM 1; kill -SEGV 1", LIMITS);
  expect(await output(sandbox, "echo on")).toBe("on\n");
});

test("the kernel's switches are read-only or hidden", async () => {
  const writes = [
    "sys/vm/drop_caches",
    "sys/kernel/core_pattern",
    "sys/kernel/randomize_va_space",
    "sysrq-trigger",
    "sys/net/ipv4/ip_forward",
  ];
  for (const path of writes)
    expect(await outcome(sandbox, `echo 1 > /proc/${path}`)).toEqual([
      1,
      expect.stringMatching(/Read-only|denied|No such/),
    ]);
  expect(await output(sandbox, "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c")).toBe("0\n");
});

test("privileges: set-user-ID has no effect, few capabilities", async () => {
  const status = await output(
    sandbox,
    "grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status | tr -s '\\t' ' '",
  );
  expect(status).toBe("CapEff: 00000000800405fb\nCapBnd: 00000000800405fb\nNoNewPrivs: 1\nSeccomp: 2\n");
  if (!sandbox.isolation.startsWith("root")) return;
  const command = "cp /usr/bin/id /tmp/id && chmod u+s /tmp/id && setpriv --reuid=65534 --clear-groups /tmp/id -u";
  expect(await outcome(sandbox, command)).toEqual([0, "65534\n"]);
});

test("/dev holds harmless devices and cannot be added to", async () => {
  expect(await output(sandbox, "ls /dev | tr '\\n' ' '")).toBe(
    "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ",
  );
  expect(await outcome(sandbox, "touch /dev/new")).toEqual([
    1,
    "touch: cannot touch '/dev/new': Read-only file system\n",
  ]);
  expect(
    await output(sandbox, "echo x > /dev/null; head -c 4 /dev/zero | wc -c; echo a > /dev/shm/a; cat /dev/shm/a"),
  ).toBe("4\na\n");
});

test("/usr is a private copy: changes stay in the sandbox", async () => {
  const neighbour = await provider.create(ENVIRONMENT);
  const marker = `ale-test-${process.pid}`;
  const [code] = await outcome(sandbox, `echo mine > /usr/local/bin/${marker}`);
  // As an ordinary user /usr belongs to nobody in the sandbox and is read-only in effect.
  expect(code).toBe(sandbox.isolation.startsWith("root") ? 0 : 1);
  await sandbox.run(`rm -f /usr/bin/env; echo x > /tmp/${marker}; echo x > /dev/shm/${marker}`, LIMITS);
  expect(
    await output(neighbour, `ls /usr/local/bin/${marker} /tmp /dev/shm 2>&1 | grep -c ${marker}; env true; echo $?`),
  ).toContain("1\n0\n");
  expect(await Bun.file(`/usr/local/bin/${marker}`).exists()).toBe(false);
  expect(await Bun.file("/usr/bin/env").exists()).toBe(true);
  await neighbour.destroy();
});

test("neighbours cannot be seen, signalled or joined", async () => {
  const neighbour = await provider.create(ENVIRONMENT);
  await neighbour.run("sleep 100 & ipcmk -M 100 >/dev/null; echo secret > /dev/shm/s", LIMITS);
  expect(
    await output(sandbox, "kill -9 -1; ipcs -m | grep -c 0x; ls -A /dev/shm | grep -c ^s$; pgrep sleep"),
  ).toContain("0\n0\n");
  expect(await output(neighbour, "pgrep -c sleep")).toBe("1\n");
  await neighbour.destroy();
});

describe("masks", () => {
  test("Ale's executable cannot be run or read", async () => {
    const path = process.execPath;
    if (!path.startsWith("/usr/")) return console.log(`skipped: ${path} is not below /usr`);
    expect(await output(sandbox, `stat -c %s ${path}; cat ${path} | wc -c`)).toBe("0\n0\n");
    expect((await outcome(sandbox, path))[0]).toBe(126);
    expect((await outcome(sandbox, `rm ${path}`))[0]).not.toBe(0);
  });

  test("folders and files in a root folder are hidden, links and all", async () => {
    const root = join(folder, "root");
    const made = Bun.spawnSync([
      "sh",
      "-c",
      `mkdir -p ${root}/bin ${root}/data/answers ${root}/usr/share && cp /bin/busybox ${root}/bin/ 2>/dev/null; cp -L /bin/bash ${root}/bin/bash; for f in $(ldd /bin/bash /bin/cat /bin/ls | grep -o '/[^ )]*' | sort -u); do mkdir -p ${root}$(dirname $f); cp -L $f ${root}$f; done; cp -L /bin/cat /bin/ls ${root}/bin/; echo 42 > ${root}/data/answers/one; echo 43 > ${root}/data/key; ln -s /data/answers ${root}/way; echo 44 > ${root}/data/linked; ln -s /data/linked ${root}/through; ln -s /etc/passwd ${root}/data/out`,
    ]);
    expect(made.exitCode).toBe(0);
    const toml = `name = "folder"\nkind = "directory"\ndescription = "a test's own"\nroot = "${root}"\nmasks = ["/data/key", "/through", "/data/out", "/data/none"]\n`;
    setProfileTexts(
      new Map([
        ["folder", toml],
        ["host", await Bun.file(join(import.meta.dir, "../../sandboxes/host.toml")).text()],
      ]),
    );
    await using own = await openProvider({ maskPaths: [join(root, "data/answers"), "/usr/share"] });
    const inside = await own.create({ ...ENVIRONMENT, profile: "folder" });
    expect(
      await output(inside, "ls /data/answers /way; cat /data/key /data/linked /through; cat /data/answers/one 2>&1"),
    ).toBe("/data/answers:\n\n/way:\ncat: /data/answers/one: No such file or directory\n");
    expect(await output(inside, "echo new > /data/mine; cat /data/mine; ls -d /usr/share; pwd")).toBe(
      "new\n/usr/share\n/work\n",
    );
    expect(await Bun.file(join(root, "data/mine")).exists()).toBe(false);
    await expect(own.create({ ...ENVIRONMENT, profile: "nonesuch" })).rejects.toThrow(
      'there is no sandbox profile "nonesuch"; known: folder, host',
    );
  });
});
