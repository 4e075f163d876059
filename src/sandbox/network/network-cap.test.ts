import { expect, test } from "bun:test";
import { NetworkCap, SERVICE_CAP } from "./network-cap.ts";

const ASKER = { who: "tasks/x/task.toml", mode: "agent.network_mode", hosts: "agent.allowed_hosts" };

function refusal(hosts: readonly string[] | undefined, allow: readonly string[]): string {
  const cap = new NetworkCap({ mostNetwork: "allowlist", networkHosts: hosts }, SERVICE_CAP);
  try {
    cap.check(ASKER, { mode: allow.length > 0 ? "allowlist" : "none", allow });
    return "";
  } catch (error) {
    return (error as Error).message;
  }
}

test("a list may hold what the cap's list covers, ports and special ranges included", () => {
  const hosts = ["pypi.org", "*.debian.org", "git.test:22", "10.1.0.0/16", "0.0.0.0/0:80"];
  for (const rule of ["pypi.org", "PyPI.org:443", "deb.debian.org", "*.debian.org", "*.security.debian.org:80"])
    expect([rule, refusal(hosts, [rule])]).toEqual([rule, ""]);
  for (const rule of ["git.test:22", "10.1.2.3", "10.1.8.0/24:443", "203.0.114.1:80"])
    expect([rule, refusal(hosts, [rule])]).toEqual([rule, ""]);
  for (const rule of ["evil.test", "pypi.org:8443", "debian.org", "*.org", "*.pypi.org", "git.test", "git.test:80"])
    expect(refusal(hosts, ["pypi.org", rule])).toContain(`agent.allowed_hosts lists ${JSON.stringify(rule)}, and`);
  // 0.0.0.0/0 lists nothing that is not public, in a cap as in a task.
  for (const rule of [
    "10.2.0.1:80",
    "127.0.0.1:80",
    "169.254.169.254:80",
    "10.0.0.0/8",
    "203.0.114.1:443",
    "[::]/0:80",
  ])
    expect(refusal(hosts, [rule])).toContain(`agent.allowed_hosts lists ${JSON.stringify(rule)}, and`);
  expect(refusal(undefined, ["evil.test", "10.0.0.1"])).toBe("");
  expect(refusal(hosts, [])).toBe("");
});

test("a refusal names who asks, the key, and the cap", () => {
  const cap = new NetworkCap({ mostNetwork: "allowlist", networkHosts: ["pypi.org"] }, SERVICE_CAP);
  expect(() => cap.check(ASKER, { mode: "public", allow: [] })).toThrow(
    'tasks/x/task.toml: agent.network_mode asks for "public", and --most-network allows "allowlist" at most',
  );
  expect(refusal(["pypi.org"], ["evil.test"])).toBe(
    'tasks/x/task.toml: agent.allowed_hosts lists "evil.test", and --network-host allows pypi.org only',
  );
  expect(() => new NetworkCap({ mostNetwork: "allowlist", networkHosts: ["no host"] }, SERVICE_CAP)).toThrow("no host");
});
