import { afterEach, expect, test } from "bun:test";
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
