import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_GUARDS } from "./guards/settings.ts";
import { masksFor } from "./masks.ts";
import type { SandboxProfile } from "./profiles.ts";

const host: SandboxProfile = {
  name: "host",
  kind: "host",
  description: "",
  binds: ["/etc/alternatives"],
  masks: ["/usr/share/hidden"],
  guards: DEFAULT_GUARDS,
};

test("host: what lies below the folders that are shown, nothing else", () => {
  const paths = [
    "/usr/local/bin/ale-none",
    "/home/me/.local/share/ale",
    "/tmp/x",
    "relative",
    "/usrlocal/x",
    "/etc/alternatives/ale-none",
    "/etc/passwd",
  ];
  expect(masksFor(host, paths)).toEqual(["/etc/alternatives/ale-none", "/usr/local/bin/ale-none", "/usr/share/hidden"]);
});

test("directory: as paths of the sandbox, links resolved", () => {
  const base = realpathSync(mkdtempSync(join(tmpdir(), "ale-masks-")));
  mkdirSync(join(base, "root/data/answers"), { recursive: true });
  symlinkSync(join(base, "root"), join(base, "link"));
  symlinkSync(join(base, "root/data/answers"), join(base, "way"));
  const profile: SandboxProfile = {
    name: "d",
    kind: "directory",
    description: "",
    root: join(base, "link"),
    binds: [],
    masks: ["/key"],
    guards: DEFAULT_GUARDS,
  };
  // The root itself, what is above it and what is beside it are not inside.
  const paths = [join(base, "way"), join(base, "root"), base, join(base, "rootless"), join(base, "root/later")];
  expect(masksFor(profile, paths)).toEqual(["/data/answers", "/key", "/later"]);
  rmSync(base, { recursive: true });
});
