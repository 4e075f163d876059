import { expect, test } from "bun:test";
import { subordinateHint } from "./subordinate-ids.ts";

const NONE = "ann has 0 ids in /etc/subuid and /etc/subgid, of the 64 that are needed";

test("the command gives ids that nobody has", () => {
  expect(subordinateHint(NONE, ["", ""])).toContain(
    "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ann;",
  );
  const texts = ["bob:100000:65536\n# none\ncarl:300000:10\n", "bob:100000:65536\n"];
  expect(subordinateHint(NONE, texts)).toContain("--add-subuids 300010-365545 --add-subgids 300010-365545 ann");
});

test("it installs what is missing, and nothing else", () => {
  expect(subordinateHint(`newuidmap and newgidmap are not installed; ${NONE}`, [])).toContain(
    "apt-get install -y uidmap && usermod --add-subuids",
  );
  expect(subordinateHint("newuidmap and newgidmap are not installed", [])).toStartWith(
    "as root: apt-get install -y uidmap; until",
  );
  expect(subordinateHint("no_new_privs is set, under which newuidmap cannot work", [])).toStartWith("start ale where");
});
