import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { AleError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import { type NetworkSpec, SPLITS } from "../core/types.ts";
import { diskSource, embeddedSuites, memorySource, setEmbeddedTasks } from "./source.ts";
import { loadSuite, suiteOf } from "./suite.ts";
import { Expression, Scope, Template } from "./template.ts";
import { ContentPool, splitOf } from "./words.ts";
import { folderOf, writeTask } from "./write.ts";

const scratch = mkdtempSync(join(tmpdir(), "ale-tasks-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const TOML = '[environment]\nprofile = "host"\n';
const PLAIN: Readonly<Record<string, string>> = {
  "task.toml": TOML,
  "instruction.md": "Say hello.\n",
  "tests/test.sh": "echo 1 > /logs/verifier/reward.txt\n",
};

function source(files: Readonly<Record<string, string | undefined>>, name = "suite/one") {
  const entries = Object.entries(files).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return memorySource(
    new Map(entries.map(([path, text]) => [`${name}/${path}`, new TextEncoder().encode(text)])),
    name,
  );
}

/** The message and hint of what `work` throws. */
function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof AleError) return `${error.code}: ${error.message} | ${error.hint ?? ""}`;
    throw error;
  }
  return "nothing was thrown";
}

const refuse = (files: Readonly<Record<string, string | undefined>>) =>
  refusal(() => suiteOf(source({ ...PLAIN, ...files })).render("one", "train", 0));

/** A family with this `[family]` part of its task.toml. */
const family = (toml: string, files: Readonly<Record<string, string>> = {}) =>
  suiteOf(source({ ...PLAIN, "task.toml": `${TOML}[family]\n${toml}`, ...files }));

describe("task folders", () => {
  test("a plain Harbor folder is one task, whatever the seed", () => {
    const suite = suiteOf(source({ ...PLAIN, "environment/files/a/b.txt": "x", "solution/solve.sh": "true" }));
    const task = suite.render("one", "dev", 7);
    expect(suite.families).toEqual(["one"]);
    expect(task.id).toBe("one/one");
    expect(task.instruction).toBe("Say hello.");
    expect(task.environment).toEqual({
      profile: "host",
      workdir: "/work",
      cpus: 1,
      memoryBytes: 256 * 2 ** 20,
      diskBytes: 64 * 2 ** 20,
      pids: 64,
    });
    expect(task.timeouts).toEqual({ command: 60, agent: 600, verifier: 600 });
    expect([...task.files, ...task.tests, ...task.solution].map(({ path, mode }) => [path, mode])).toEqual([
      ["a/b.txt", 0o644],
      ["test.sh", 0o755],
      ["solve.sh", 0o755],
    ]);
  });

  test("networks: none unless asked for; phases have their own, and a written instance keeps them", () => {
    const networks = (toml: string) => {
      const task = suiteOf(source({ ...PLAIN, "task.toml": `${TOML}${toml}` })).render("one", "train", 0);
      return [task.environment.network, task.verifierNetwork];
    };
    const listed: NetworkSpec = { mode: "allowlist", allow: ["a.org", "*.b.org:8443", "10.0.0.0/8"] };
    const toml = `network_mode = "allowlist"\nallowed_hosts = ${JSON.stringify(listed.allow)}\n`;
    const open: NetworkSpec = { mode: "public", allow: [] };
    expect(networks("")).toEqual([undefined, undefined]);
    expect(networks('network_mode = "no-network"\nallow_internet = false\n')).toEqual([undefined, undefined]);
    expect(networks(toml)).toEqual([listed, listed]);
    expect(networks(`${toml}[verifier]\nnetwork_mode = "no-network"\n`)).toEqual([listed, undefined]);
    expect(networks(`allow_internet = true\n[agent]\n${toml}`)).toEqual([listed, open]);
    expect(networks(`[verifier]\nnetwork_mode = "public"\n`)).toEqual([undefined, open]);
    const folder = mkdtempSync(join(tmpdir(), "ale-network-"));
    const task = suiteOf(source({ ...PLAIN, "task.toml": `${TOML}allow_internet = true\n[agent]\n${toml}` })).render(
      "one",
      "train",
      0,
    );
    writeTask(task, folder);
    const { environment, verifierNetwork } = loadSuite(folder).render(loadSuite(folder).families[0] ?? "", "train", 0);
    expect([environment.network, verifierNetwork]).toEqual([listed, open]);
    rmSync(folder, { recursive: true });
  });

  test("an old Harbor file with settings that ask for nothing loads", () => {
    const toml = `version = "1.0"\n[metadata]\nauthor_name = "a"\n[environment]\nprofile = "host"\ngpus = 0\n[verifier.env]\n`;
    expect(suiteOf(source({ ...PLAIN, "task.toml": toml })).families).toEqual(["one"]);
  });

  test("an image stands in the place of a profile, and for the Dockerfile it was built from", () => {
    const toml = '[environment]\ndocker_image = "debian:12"\nworkdir = "/app"\n';
    const suite = suiteOf(source({ ...PLAIN, "task.toml": toml, "environment/Dockerfile": "FROM debian:12" }));
    expect(suite.family("one").environment).toMatchObject({ profile: "image", image: "debian:12", workdir: "/app" });
  });

  test.each([
    ["no task.toml", { "task.toml": undefined }, /suite\/one holds no task/],
    ["broken TOML", { "task.toml": "[environment\n" }, /suite\/one\/task\.toml:1:\d+: /],
    [
      "no profile",
      { "task.toml": '[environment]\nworkdir = "/w"\n' },
      /task\.toml:1: environment\.profile is missing.*\| add profile = "host"/,
    ],
    ["no environment", { "task.toml": "" }, /environment\.profile|environment is missing/],
    [
      "unknown key",
      { "task.toml": `${TOML}memory_mbs = 3\n` },
      /task\.toml:3: unknown key environment\.memory_mbs; did you mean memory_mb\?/,
    ],
    ["wrong type", { "task.toml": `${TOML}cpus = "many"\n` }, /task\.toml:3: environment\.cpus is "many"/],
    ["Dockerfile", { "environment/Dockerfile": "FROM x" }, /suite\/one\/environment\/Dockerfile: images are not built/],
    ["compose file", { "environment/docker-compose.yaml": "a: b" }, /docker-compose\.yaml: images are not built/],
    [
      "network",
      { "task.toml": `${TOML}allowed_hosts = ["a.org"]\n` },
      /environment\.allowed_hosts needs a network_mode/,
    ],
    [
      "two networks",
      { "task.toml": `${TOML}allow_internet = true\nnetwork_mode = "no-network"\n` },
      /allow_internet = true and network_mode = "no-network" disagree/,
    ],
    ["variables", { "task.toml": `${TOML}[verifier.env]\nKEY = "\${HOME}"\n` }, /verifier\.env: .*nothing of the host/],
    ["steps", { "task.toml": `${TOML}[[steps]]\nname = "a"\n` }, /steps: tasks of several steps/],
    ["no instruction", { "instruction.md": undefined }, /suite\/one\/instruction\.md is missing/],
    ["empty instruction", { "instruction.md": " \n" }, /instruction\.md is empty/],
    ["no test", { "tests/test.sh": undefined }, /suite\/one\/tests\/test\.sh is missing \| write a script/],
    ["no reward", { "tests/test.sh": "exit 0\n" }, /tests\/test\.sh never writes a reward \| end it with/],
  ])("%s is refused", (_, files, message) => {
    expect(refuse(files)).toMatch(message);
  });

  test("an instruction that is no text is refused", () => {
    const image = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0xff, 0]);
    const files = new Map(Object.entries(PLAIN).map(([path, text]) => [path, new TextEncoder().encode(text)]));
    const found = memorySource(
      new Map([...files.set("instruction.md", image)].map(([p, c]) => [`suite/one/${p}`, c])),
      "suite/one",
    );
    expect(refusal(() => suiteOf(found))).toContain("suite/one/instruction.md is not text in UTF-8 | save it as UTF-8");
  });

  test("links in a task folder are refused", () => {
    const folder = join(scratch, "linked");
    for (const [path, text] of Object.entries(PLAIN)) put(folder, path, text);
    symlinkSync("/etc/passwd", join(folder, "tests/passwd"));
    expect(refusal(() => suiteOf(diskSource(folder)))).toContain("tests/passwd is neither a file nor a folder");
  });

  test("a place that cannot be looked at is named", () => {
    const place = join(scratch, "x".repeat(300));
    expect(refusal(() => loadSuite(place))).toContain("x cannot be read: ENAMETOOLONG");
    writeFileSync(join(scratch, "no-folder"), "");
    expect(refusal(() => loadSuite(join(scratch, "no-folder", "suite")))).toContain("cannot be read: ENOTDIR");
  });

  test("files on disk keep their executable bit and nothing else", () => {
    const folder = join(scratch, "modes");
    for (const [path, text] of Object.entries(PLAIN)) put(folder, path, text);
    put(folder, "environment/files/tool", "#!/bin/sh\n", 0o700);
    put(folder, "environment/files/note", "x", 0o600);
    const { files } = loadSuite(folder).render("modes", "train", 0);
    expect(files.map(({ path, mode }) => [path, mode])).toEqual([
      ["note", 0o644],
      ["tool", 0o755],
    ]);
  });
});

function put(folder: string, path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), text);
  chmodSync(join(folder, path), mode);
}

describe("suites", () => {
  test("an embedded suite is found by its path and by its name", () => {
    const file = (path: string, text: string) => [`tasks/mine/${path}`, new TextEncoder().encode(text)] as const;
    setEmbeddedTasks(new Map(Object.entries(PLAIN).map(([path, text]) => file(`greet/${path}`, text))));
    try {
      expect(embeddedSuites()).toEqual(["tasks/mine"]);
      for (const name of ["tasks/mine", "mine", "./tasks/mine/"]) expect(loadSuite(name).families).toEqual(["greet"]);
      expect(loadSuite("tasks/mine/greet").render("greet", "train", 0).instruction).toBe("Say hello.");
      expect(refusal(() => loadSuite("tasks/yours"))).toBe(
        "task: there is no task folder tasks/yours | included suites: tasks/mine",
      );
      expect(refusal(() => loadSuite("mine", { families: ["gret"] }))).toContain("did you mean greet?");
    } finally {
      setEmbeddedTasks(new Map());
    }
  });

  test("a file is not a suite", () => {
    put(scratch, "file", "x");
    expect(refusal(() => loadSuite(join(scratch, "file")))).toContain("is a file; a task or a suite is a folder");
  });
});

describe("families", () => {
  const suite = family(
    `
[family.parameters]
names = { type = "words", count = [2, 3] }
groups = { type = "words", each = "names", count = "index + 1" }
amounts = { type = "numbers", count = 3, min = 10, max = 5000 }
amount = { type = "number", min = 10, max = 5000 }
pick = { type = "int", min = 1, max = "names | length" }
kind = { type = "choice", from = [["a", 1], ["b", 2]] }
some = { type = "sample", from = ["p", "q", "r"], count = 2 }
mixed = { type = "shuffle", from = "names + some" }
total = { type = "value", of = "sum(amounts)" }

[[family.files]]
each = "names"
path = "{{ item }}.txt"
content = "{{ lines(groups[index]) }}"
expected = "index > 0"

[[family.files]]
when = "pick > 1"
path = "tool"
mode = "755"
expected = false

[[family.expected]]
path = "sum"
content = "{{ total }}\\n"

[[family.demonstrations]]
kind = "expert"
commands = """
{% for name in names %}
cat {{ name }}.txt
{% endfor %}
echo {{ total }} > sum
"""
`,
    {
      "instruction.md": "Add {{ join(amounts, ' and ') }} for {{ names[0] }}\n",
      "tests/{{ names[0] }}.txt": "n=$" + "{#x}\n",
      "tests/test.sh": "echo {{ amount }} > reward\n",
      "environment/files/fixed.bin": "{{ kind[1] }}",
    },
  );

  test("parameters see those above them, and every text is a template", () => {
    fc.assert(
      fc.property(fc.constantFrom(...SPLITS), fc.nat(1_000_000), (split, seed) => {
        const task = suite.render("one", split, seed);
        const text = (path: string, files = task.tests) =>
          new TextDecoder().decode(files.find((file) => file.path === path)?.content);
        const commands = task.demonstrations[0]?.commands ?? [];
        const names = commands.slice(0, -1).map((command) => /^cat (.*)\.txt$/.exec(command)?.[1] ?? "");
        expect(names.length === 2 || names.length === 3).toBe(true);
        names.forEach((name, i) => {
          expect(text(`${name}.txt`, task.files).trim().split("\n")).toHaveLength(i + 1);
          expect(task.tests.some(({ path }) => path === `expected/${name}.txt`)).toBe(i > 0);
        });
        const total = text("expected/sum").trim();
        expect(task.instruction).toMatch(new RegExp(`^Add \\d+ and \\d+ and \\d+ for ${names[0]}$`));
        const sum = [...task.instruction.matchAll(/\d+/g)].reduce((a, [n]) => a + Number(n), 0);
        expect(Number(total)).toBe(sum);
        expect(commands.at(-1)).toBe(`echo ${total} > sum`);
        // a text without placeholders is not a template: this is not a comment
        expect(text(`${names[0]}.txt`)).toBe("n=$" + "{#x}\n");
        expect(["1", "2"]).toContain(text("fixed.bin", task.files));
        expect(text("expected/fixed.bin")).toBe(text("fixed.bin", task.files));
        expect(task.files.find(({ path }) => path === "tool")?.mode ?? 0o755).toBe(0o755);
      }),
      { numRuns: 40 },
    );
  });

  test("a written instance loads as the task it was, with and without permission bits", () => {
    for (const [i, split] of SPLITS.entries()) {
      const task = suite.render("one", split, i);
      const folder = join(scratch, `written-${split}`);
      const files = writeTask(task, folder);
      expect(files).toContain("task.toml");
      expect(loadSuite(folder).render(`written-${split}`, "train", 0)).toEqual(task);
      const memory = new Map([...folderOf(task)].map(([path, { content }]) => [`x/${path}`, content]));
      expect(suiteOf(memorySource(memory, "x")).render("x", "train", 0)).toEqual(task);
      expect(refusal(() => writeTask(task, folder))).toContain("is not empty");
    }
    put(scratch, "wall", "x");
    expect(refusal(() => writeTask(suite.render("one", "train", 0), join(scratch, "wall/a")))).toContain(
      "cannot write",
    );
  });

  const parameter = (line: string) => `[family.parameters]\n${line}\n`;
  test.each([
    ["unknown type", parameter('a = { type = "wrd" }'), /task\.toml:5: family\.parameters\.a/],
    [
      "unknown name",
      parameter('a = { type = "value", of = "b" }'),
      /parameters\.a\.of: there is no parameter "b" \(instance one\/one\/train\/0\)/,
    ],
    ["syntax", parameter('a = { type = "value", of = "1 +" }'), /parameters\.a\.of: /],
    ["reserved name", parameter('lines = { type = "word" }'), /lines is the name of a template function/],
    ["empty range", parameter('a = { type = "int", min = 3, max = 2 }'), /the range 3 to 2 is empty/],
    ["too many", parameter('a = { type = "sample", from = ["x"], count = 2 }'), /2 elements of a list of 1/],
    [
      "no such number",
      parameter('a = { type = "number", min = 0, max = 0 }'),
      /no number between 0 and 0|nothing was thrown/,
    ],
    [
      "not a list",
      parameter('a = { type = "shuffle", from = "1 + 1" }'),
      /parameters\.a\.from: 1 \+ 1 is 2, not a list/,
    ],
    [
      "path outside",
      '[[family.files]]\npath = "../x"\n',
      /family\.files\[0\]: "\.\.\/x" is not a path inside the folder/,
    ],
    ["absolute path", '[[family.files]]\npath = "/x"\n', /is not a path inside the folder/],
    ["two files", '[[family.files]]\npath = "x"\n[[family.files]]\npath = "x"\n', /has two files x/],
    ["no condition", '[[family.files]]\npath = "x"\nwhen = "1"\n', /when: 1 is 1, not true or false/],
    ["bad mode", '[[family.files]]\npath = "x"\nmode = "9"\n', /mode is "9": three octal digits/],
  ])("%s is refused with its place", (_, toml, message) => {
    expect(refuse({ "task.toml": `${TOML}[family]\n${toml}` })).toMatch(message);
  });
});

describe("templates", () => {
  const scope = new Scope();
  scope.set("list", ["b", "a"]);

  test("a file keeps its last line break", () => {
    expect(new Template("{{ list[0] }}\n", "t").render(scope)).toBe("b\n");
    expect(new Template("{% for x in list %}\n{{ x }}\n{% endfor %}\n", "t").render(scope)).toBe("b\na\n");
  });

  test("they neither reach outside nor run for ever", () => {
    const loops = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    expect(refusal(() => new Template(loops, "t").render(scope))).toContain(
      "t: it takes more than 50000 evaluation steps",
    );
    expect(refusal(() => new Template("{{ repeat('x', 99999999) }}", "t").render(scope))).toContain("characters");
    expect(refusal(() => new Template("{{ range(99999999) }}", "t").render(scope))).toContain("range()");
    for (const name of ["process", "Bun", "HOME", "strftime_now", "constructor"]) {
      expect(refusal(() => new Expression(name, "t").evaluate(scope))).toContain(`there is no parameter "${name}"`);
    }
    expect(refusal(() => new Expression("list.constructor", "t").evaluate(scope))).toContain("does not exist");
    expect(new Template("$" + "{HOME} {{ list[1] }}", "t").render(scope)).toBe("$" + "{HOME} a");
  });

  test.each([
    ["sorted(list)", ["a", "b"]],
    ["sorted([10, 9])", [9, 10]],
    ["unique(list + list)", ["b", "a"]],
    ["sum([1, 2])", 3],
    ["join(list, '-')", "b-a"],
    ["lines(list)", "b\na\n"],
    ["insert(list, 2, 'c')", ["b", "a", "c"]],
    ["without(list, 0)", ["a"]],
    ["index_of(list, 'a')", 1],
    ["max([3, 7]) - min([3, 7])", 4],
    ["'yes' if 'a' in list else 'no'", "yes"],
    ["repeat('ab', 2)", "abab"],
  ])("%s", (source, value) => {
    expect(new Expression(source, "t").evaluate(scope)).toEqual(value);
  });
});

describe("content", () => {
  test("pools of words and numbers are disjoint, and no word contains another", () => {
    fc.assert(
      fc.property(fc.constantFrom(...SPLITS), fc.nat(), (split, seed) => {
        const pool = new ContentPool(split, new Rng(`${seed}`));
        const words = Array.from({ length: 12 }, () => pool.word());
        expect(words.every((word) => splitOf(word) === split && /^[a-z]{4,6}$/.test(word))).toBe(true);
        expect(words.some((a, i) => words.some((b, j) => i !== j && a.includes(b)))).toBe(false);
        expect(splitOf(String(pool.number(1, 99)))).toBe(split);
      }),
      { numRuns: 50 },
    );
  });

  test("about six in eight words are for training, one for each of the others", () => {
    const words = Array.from({ length: 8000 }, (_, i) => `word${i}`);
    const share = (split: string) => words.filter((word) => splitOf(word) === split).length / words.length;
    expect(share("train")).toBeCloseTo(0.75, 1);
    expect(share("dev")).toBeCloseTo(0.125, 1);
    expect(share("heldout")).toBeCloseTo(0.125, 1);
  });

  test("what a pool does not have is said", () => {
    const pool = new ContentPool("dev", new Rng("x"));
    const foreign = Array.from({ length: 50 }, (_, i) => i).find((i) => splitOf(String(i)) !== "dev") as number;
    expect(refusal(() => pool.number(foreign, foreign))).toContain(`no number between ${foreign} and ${foreign}`);
    const exhaust = () => Array.from({ length: 30 }, () => pool.word(1));
    expect(refusal(exhaust)).toContain("no unused word of 1 syllables is left in split dev");
  });
});
