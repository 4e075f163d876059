import { describe, expect, test } from "bun:test";
import { parseAddress, parseRange, specialRange } from "./addresses.ts";
import { canonicalHost, NetworkPolicy } from "./policy.ts";

const address = (text: string) => {
  const parsed = parseAddress(text);
  if (parsed === undefined) throw new Error(text);
  return parsed;
};
const policy = (mode: "none" | "allowlist" | "public", ...allow: string[]) => new NetworkPolicy({ mode, allow });

test("addresses have one notation each, and IPv4 in IPv6 is IPv4", () => {
  expect(address("::ffff:1.2.3.4")).toEqual(address("1.2.3.4"));
  expect(address("::ffff:102:304")).toEqual(address("1.2.3.4"));
  expect(address("2001:DB8::1")).toEqual(address("2001:0db8:0:0:0:0:0:1"));
  for (const text of [
    "1.2.3",
    "01.2.3.4",
    "1.2.3.4.5",
    "256.1.1.1",
    "0x1.2.3.4",
    "1.2.3.4 ",
    "",
    ":::",
    "1::2::3",
    "::1%lo",
    "1:2:3:4:5:6:7",
    "::12345",
  ])
    expect([text, parseAddress(text)]).toEqual([text, undefined]);
  for (const text of ["1.2.3.4/33", "::/129", "::ffff:1.2.3.4/96", "a/8"])
    expect([text, parseRange(text)]).toEqual([text, undefined]);
});

test("what is not public, and what is", () => {
  const kinds = Object.entries({
    loopback: ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"],
    private: ["10.0.0.0", "172.31.255.255", "192.168.0.1", "fd12::1"],
    "link-local": ["169.254.169.254", "fe80::1"],
    "shared (CGNAT)": ["100.64.0.1", "100.127.255.255", "100.100.100.200"],
    "cloud metadata": ["168.63.129.16"],
    "translated IPv4": ["64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1", "::7f00:1"],
    multicast: ["224.0.0.1", "ff02::1"],
    reserved: ["255.255.255.255", "2001:0:1::1", "192.0.0.192"],
    "not public": ["4000::1", "1::1"],
  });
  for (const [what, texts] of kinds)
    for (const text of texts) expect([text, specialRange(address(text))?.what]).toEqual([text, what]);
  for (const text of ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "168.63.129.17"])
    expect([text, specialRange(address(text))]).toEqual([text, undefined]);
});

describe("rules", () => {
  test("hosts, names below a host, addresses, ranges, ports", () => {
    const rules = policy(
      "allowlist",
      "A.example",
      "*.b.example:8080",
      "203.0.113.7",
      "198.18.0.0/15:9",
      "[2001:db8::]/32",
      "1.1.1.1",
    );
    const open = [
      ["a.example", 80],
      ["a.example", 443],
      ["x.b.example", 8080],
      ["x.y.b.example", 8080],
      ["203.0.113.7", 443],
      ["198.19.1.1", 9],
      ["2001:db8::5", 443],
      ["1.1.1.1", 80],
    ] as const;
    for (const [host, port] of open) expect([host, rules.refuseHost(host, port)]).toEqual([host, undefined]);
    const closed = [
      ["a.example", 22],
      ["b.a.example", 80],
      ["aa.example", 80],
      ["b.example", 8080],
      ["evilb.example", 8080],
      ["x.b.example", 443],
      ["203.0.113.8", 443],
      ["198.19.1.1", 443],
      ["2001:db9::1", 443],
    ] as const;
    for (const [host, port] of closed) expect([host, rules.refuseHost(host, port)]).toEqual([host, expect.any(String)]);
  });

  test("special addresses are listed by ranges inside their block only, and never by a name", () => {
    const wide = policy("allowlist", "0.0.0.0/0", "::/0", "host.example");
    const narrow = policy("public", "10.1.0.0/16", "127.0.0.5:8080");
    expect(wide.refuseAddress(address("9.9.9.9"), 443)).toBeUndefined();
    for (const text of ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "64:ff9b::1"])
      expect([text, wide.refuseAddress(address(text), 80)]).toEqual([text, expect.stringContaining("not listed")]);
    expect(narrow.refuseAddress(address("10.1.2.3"), 443)).toBeUndefined();
    expect(narrow.refuseAddress(address("10.2.2.3"), 443)).toContain("private");
    expect(narrow.refuseAddress(address("127.0.0.5"), 8080)).toBeUndefined();
    expect(narrow.refuseAddress(address("127.0.0.5"), 80)).toContain("loopback");
    expect(policy("public").refuseHost("any.example", 8443)).toBeUndefined();
    expect(policy("none").refuseHost("any.example", 443)).toBe("there is no network");
  });

  test("what is no rule is refused, with how to write one", () => {
    for (const rule of [
      "",
      "*",
      "*.",
      "a b",
      "http://a.example",
      "a.example/x",
      "a.example:0",
      "a.example:70000",
      "1.2.3.4/40",
      "*.1.2.3.4",
      "a@b.example",
    ])
      expect(() => policy("allowlist", rule)).toThrow(/network rule .*: (it is neither|the port)/);
    expect(() => policy("none", "a.example")).toThrow("of mode none lists hosts");
  });
});

test("hosts are compared in one form", () => {
  expect(canonicalHost("EXAMPLE.org.")).toBe("example.org");
  expect(canonicalHost("under_score.example")).toBe("under_score.example");
  expect(canonicalHost("[::1]")).toBe("::1");
  for (const text of ["2130706433", "0x7f000001", "127.1", "a..b", "-a.example", "é.example", "a%2e.example", ""])
    expect([text, canonicalHost(text)]).toEqual([text, undefined]);
});
