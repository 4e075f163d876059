import { describe, expect, test } from "bun:test";
import { type Query, Rcode, RecordType, readQuery, writeAnswer } from "./dns-message.ts";
import { Lookups } from "./lookups.ts";
import { NetworkPolicy } from "./policy.ts";
import { StandIns } from "./stand-ins.ts";

/** `dig +noall a.Example. A`, with an OPT record as dig sends it. */
const DIG = Buffer.from(
  "a1b201200001000000000001 0161074578616d706c6500 0001 0001 0000291000000000000000".replaceAll(" ", ""),
  "hex",
);

describe("messages", () => {
  test("a question is read as it stands, and answered with what it asked", () => {
    const query = readQuery(DIG) as Query;
    expect(query).toMatchObject({ id: 0xa1b2, name: "a.example", type: RecordType.A, recursion: true, extended: true });
    const answer = writeAnswer(query, { code: Rcode.ok, address: "127.64.1.2", seconds: 30 });
    expect(Buffer.from(answer).toString("hex")).toBe(
      `a1b281800001000100000001${DIG.subarray(12, 27).toString("hex")}c00c000100010000001e00047f400102000029${"04d0"}000000000000`,
    );
  });

  test("a refusal says why to who understands it (RFC 8914)", () => {
    const query = readQuery(DIG) as Query;
    const answer = Buffer.from(writeAnswer(query, { code: Rcode.noSuchName, reason: "the host is not listed" }));
    expect(answer[3]).toBe(0x83);
    expect(answer.subarray(-28).toString("latin1")).toBe("\x00\x0f\x00\x18\x00\x12the host is not listed");
    const plain = writeAnswer({ ...query, extended: false }, { code: Rcode.noSuchName, reason: "x" });
    expect(plain.length).toBe(27);
  });

  test("any bytes are read without a fault", () => {
    let state = 1;
    const next = () => {
      state = (state * 48_271) % 2_147_483_647;
      return state & 255;
    };
    for (let i = 0; i < 2000; i++) {
      const bytes = Buffer.from(DIG);
      for (let j = 0; j < 4; j++) bytes[next() % bytes.length] = next();
      readQuery(bytes.subarray(0, next() % (bytes.length + 1)));
    }
    expect(readQuery(new Uint8Array(11))).toBeUndefined();
  });
});

test("names that are not listed themselves may say so much in all; what is asked for twice says nothing new", async () => {
  let asked = 0;
  const lookups = new Lookups(async () => [`192.0.2.${++asked}`]);
  const policy = new NetworkPolicy({ mode: "allowlist", allow: ["*.deep.test", "listed.test"] });
  const name = (i: number) => `${"x".repeat(60)}.${i}.deep.test`.padStart(100, "y");
  for (let i = 0; i < 327; i++) await lookups.find(name(i), policy);
  await expect(lookups.find(name(327), policy)).rejects.toThrow("more than 32768 characters");
  await lookups.find(name(0), policy);
  await lookups.find("listed.test", policy);
  expect(asked).toBe(329);
  const [first, second] = await Promise.all([1, 2].map(() => lookups.findLately("listed.test", policy)));
  expect(first).toBe(second as readonly string[]);
});

describe("addresses that stand for names", () => {
  test("are kept for a name; those used longest ago are closed to make room, unless connections go through them", async () => {
    const open = new Set<string>();
    const busy = new Set<string>();
    const standIns = new StandIns(
      {
        open: async (address, port) => void open.add(`${address}:${port}`),
        close: async (address, port) => void open.delete(`${address}:${port}`),
        isBusy: (address, port) => busy.has(`${address}:${port}`),
      },
      (work) => work(),
    );
    for (let i = 1; i <= 16; i++) expect(await standIns.addressOf(`n${i}`, [80, 443])).toBe(`127.64.0.${i}`);
    busy.add("127.64.0.2:443");
    await standIns.addressOf("n1", [80, 443]);
    await standIns.addressOf("another", [80, 443]);
    expect(open.size).toBe(32);
    expect(open).not.toContain("127.64.0.3:80"); // n1 was used again, n2 is in use
    expect(open).toContain("127.64.0.2:80");
    expect(await standIns.addressOf("n3", [80])).toBe("127.64.0.3");
    for (const place of open) busy.add(place);
    await expect(standIns.addressOf("no room", [80, 443])).rejects.toThrow("connections go through all");
    await standIns.clear();
    expect(open.size).toBe(0);
  });
});
