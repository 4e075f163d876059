import { expect, test } from "bun:test";
import { PrivatePaths } from "./private-paths.ts";

const paths = new PrivatePaths("/home/u/.ale/s1", "/work");

test.each([
  ["cat /work/a /tests/expected", "cat /home/u/.ale/s1/work/a /home/u/.ale/s1/tests/expected"],
  ['[ -d "/logs/verifier" ] && cd /work', '[ -d "/home/u/.ale/s1/logs/verifier" ] && cd /home/u/.ale/s1/work'],
  ["x>/logs/verifier/reward.txt;ls /tmp", "x>/home/u/.ale/s1/logs/verifier/reward.txt;ls /home/u/.ale/s1/tmp"],
  ["ls /usr/work /workshop a/work ./work ~/tmp /work-2 http://x/tmp", undefined],
])("%s", (text, expected) => {
  expect(paths.inward(text)).toBe(expected ?? text);
});

test("outputs show the usual paths, whatever bytes are around them", () => {
  const output = Buffer.concat([Buffer.from([0xff, 0]), Buffer.from("/home/u/.ale/s1/work/a\n/home/u/.ale/s1/tmp")]);
  expect(Buffer.from(paths.outward(output)).toString("latin1")).toBe("\xff\0/work/a\n/tmp");
});

test("scripts are rewritten, what tasks work on is not", () => {
  const file = (path: string, text: string) => ({ path, mode: 0o755, content: new TextEncoder().encode(text) });
  const text = (of: ReturnType<typeof file>) => new TextDecoder().decode(paths.inwardFile(of).content);
  expect(text(file("test.sh", "cd /work"))).toBe("cd /home/u/.ale/s1/work");
  expect(text(file("run", "#!/bin/sh\ncd /work"))).toContain("s1/work");
  expect(text(file("notes.txt", "look at /work"))).toBe("look at /work");
});
