/** Network namespaces that are handed on from one sandbox to the next: only such as are like new, and nobody can change one. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import type { NativeSandbox } from "../../src/sandbox/native-sandbox.ts";
import { allowing } from "./network-support.ts";
import { compileProbe, ENVIRONMENT, file, openProvider, outcome, output, type TestProvider } from "./support.ts";

let provider: TestProvider;
let probe: Uint8Array;
let listener: Uint8Array;
beforeAll(async () => {
  provider = await openProvider();
  [probe, listener] = [await compileProbe(), await compileProbe("listener")];
});
afterAll(() => provider?.close());

const COUNTED = "cat /proc/net/dev /proc/net/snmp /proc/net/snmp6 /proc/net/netstat; head -n 1 /proc/net/sockstat";

/** Makes a sandbox, uses it, ends it. Returns its network, and what the kernel said of that before it was used. */
async function once(use: (sandbox: NativeSandbox) => Promise<unknown> = async () => {}, network = ENVIRONMENT.network) {
  const sandbox = await provider.create({ ...ENVIRONMENT, ...(network && { network }) });
  await sandbox.upload("/tmp", [file("probe", probe, 0o755), file("listener", listener, 0o755)]);
  const name = await output(sandbox, "readlink /proc/self/ns/net");
  const counted = await output(sandbox, COUNTED);
  await use(sandbox);
  await sandbox.destroy();
  return { name, counted };
}

test("a network in which nothing was sent goes on to the next sandbox, as new", async () => {
  const first = await once();
  const second = await once(async (sandbox) =>
    // It may listen, also at a port below 1024: nobody asks.
    expect(await outcome(sandbox, "/tmp/listener echo 80")).toEqual([0, ""]),
  );
  const third = await once();
  expect(second).toEqual(first);
  expect(third).toEqual(first);
});

test("sandboxes that live at the same time have networks of their own", async () => {
  const names = await Promise.all(
    Array.from({ length: 4 }, async () => {
      await using sandbox = await provider.create(ENVIRONMENT);
      const name = await output(sandbox, "readlink /proc/self/ns/net");
      await output(sandbox, "sleep 0.5");
      return name;
    }),
  );
  expect(new Set(names).size).toBe(4);
});

test.each([
  ["a connection", "/tmp/listener echo 8080; exec 3<>/dev/tcp/127.0.0.1/8080; echo hello >&3; head -n 1 <&3"],
  ["a datagram", "echo hello >/dev/udp/127.0.0.1/9000"],
  ["a connection that was refused", "(exec 3<>/dev/tcp/127.0.0.1/9) 2>&1"],
  ["an attempt to leave", "/tmp/probe connect"],
])("one that saw %s does not", async (_, command) => {
  const fresh = await once();
  const used = await once((sandbox) => output(sandbox, command));
  const next = await once();
  expect(used.counted).toBe(fresh.counted);
  expect(next.counted).toBe(fresh.counted);
  expect(next.name).not.toBe(used.name);
});

test("nor does one that had the proxy, with its second address", async () => {
  const proxied = await once(undefined, allowing("example.test"));
  const next = await once(async (sandbox) => {
    expect(await output(sandbox, "grep -c 127.64.0.0 /proc/net/fib_trie")).toBe("0\n");
    expect(await outcome(sandbox, "(exec 3<>/dev/tcp/127.0.0.1/3128) 2>&1 | grep -o 'refused$' | uniq")).toEqual([
      0,
      "refused\n",
    ]);
  });
  expect(next.name).not.toBe(proxied.name);
});

test("a sandbox cannot change its network", async () => {
  await once(async (sandbox) => {
    const found = (await output(sandbox, "/tmp/probe device")).trim().split("\n");
    expect(found.slice(0, 3)).toEqual(["down EPERM", "address EPERM", "mtu EPERM"]);
    expect(found[3]).toMatch(/^setting (EACCES|EROFS|EPERM|ENOENT)$/);
    expect(found[4]).toBe("port-80 works");
  });
});
