import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listProfiles, readProfileText, setProfileTexts } from "./profile-texts.ts";
import { loadProfile } from "./profiles.ts";

const shipped = new Map(listProfiles().map((name) => [name, readProfileText(name) ?? ""]));
afterEach(() => setProfileTexts(undefined));

test("the shipped profiles are right", () => {
  expect([...shipped.keys()]).toContain("host");
  for (const name of shipped.keys()) expect(loadProfile(name).name).toBe(name);
  expect(loadProfile("host")).toMatchObject({ kind: "host", masks: [] });
});

test("an unknown name is refused with the known ones", () => {
  expect(() => loadProfile("ubuntu")).toThrow(
    `there is no sandbox profile "ubuntu"; known: ${[...shipped.keys()].join(", ")}`,
  );
  expect(() => loadProfile("../host")).toThrow("there is no sandbox profile");
});

test("files of a folder of one's own stand beside those that are registered, and take no name of theirs", () => {
  const folder = mkdtempSync(join(tmpdir(), "ale-profiles-"));
  try {
    setProfileTexts(shipped, folder);
    expect(listProfiles()).toEqual([...shipped.keys()]);
    const text = (name: string, root: string) =>
      `name = "${name}"\nkind = "directory"\ndescription = ""\nroot = "${root}"\n`;
    writeFileSync(join(folder, "mine.toml"), text("mine", "/srv/root"));
    writeFileSync(join(folder, "notes.txt"), "no profile");
    expect(listProfiles()).toEqual([...shipped.keys(), "mine"].sort());
    expect(loadProfile("mine")).toMatchObject({ kind: "directory", root: "/srv/root" });
    writeFileSync(join(folder, "host.toml"), text("host", "/srv/other"));
    expect(() => loadProfile("host")).toThrow("has the name of a profile that comes with Ale");
    rmSync(folder, { recursive: true });
    expect(loadProfile("host").kind).toBe("host");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test.each([
  ["a name that differs", 'name = "x"\nkind = "host"\ndescription = ""', 'name = "x" differs'],
  ["an unknown key", 'name = "p"\nkind = "host"\ndescription = ""\nnetwork = true', "network"],
  ["an unknown kind", 'name = "p"\nkind = "vm"\ndescription = ""', "kind"],
  ["a relative root", 'name = "p"\nkind = "directory"\ndescription = ""\nroot = "rootfs"', "must be an absolute path"],
  ["no TOML", "name = ", "is not right"],
])("%s", (_what, text, message) => {
  setProfileTexts(new Map([["p", text]]));
  expect(() => loadProfile("p")).toThrow(message);
});
