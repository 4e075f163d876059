/**
 * Which control groups the launcher finds and what it writes into them, on trees of plain files with the kernel's rules modelled
 * (control-groups.c): version 2 as systemd and containers lay it out, version 1, both, none. For real: test/kernel.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const LAUNCHER = resolve(import.meta.dir, "../../src/sandbox/launcher");
const WRAPPED = ["fopen", "mkdir", "mkdirat", "rmdir", "unlinkat", "read_text_at", "write_text_at"];
const MOUNT = "/sys/fs/cgroup";
const ALL = "memory pids cpu";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ale-control-groups-"));
  const sources = ["cgroup.c", "room.c", "io.c"].map((name) => join(LAUNCHER, name));
  const { exitCode, stderr } = Bun.spawnSync([
    ...["cc", "-static", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", join(folder, "program")],
    ...[join(import.meta.dir, "control-groups.c"), ...sources, ...WRAPPED.map((name) => `-Wl,--wrap=${name}`)],
  ]);
  if (exitCode !== 0) throw new Error(`cc failed: ${stderr}`);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Group {
  /** What it hands down. */
  readonly hands?: string;
  readonly processes?: string;
  /** Whether this user may change it. */
  readonly owned?: boolean;
}

interface Hierarchy {
  /** `undefined`: version 2. */
  readonly controllers?: string;
  readonly point: string;
  /** What of the hierarchy is mounted there. */
  readonly root?: string;
  /** The group of the process, as /proc tells it. */
  readonly own: string;
  /** By path below the mount; "" is the top. */
  readonly groups: Readonly<Record<string, Group>>;
  /** What there is at the top, of version 2. */
  readonly top?: string;
  /** Whether the top is the machine's root. */
  readonly real?: boolean;
  /** Files of a group of version 1. */
  readonly files?: readonly string[];
}

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

const words = (text: string) => text.split(" ").filter(Boolean).join("\n");

function layOut(root: string, hierarchies: readonly Hierarchy[]): void {
  hierarchies.forEach((hierarchy, index) => {
    const { controllers, point, groups, real = true, files = [] } = hierarchy;
    for (const [path, { hands = "", processes = "", owned = false }] of Object.entries(groups)) {
      const place = (name: string) => join(root, point, path, name);
      const above = path === "" ? (hierarchy.top ?? ALL) : (groups[dirname(`/${path}`).slice(1)]?.hands ?? "");
      if (controllers === undefined) {
        write(place("cgroup.controllers"), words(above));
        write(place("cgroup.subtree_control"), words(hands));
        if (path !== "" || !real) write(place("cgroup.type"), "domain");
      }
      write(place("cgroup.procs"), words(processes));
      for (const name of files) write(place(name), "");
      if (owned) write(place("owned"), "");
    }
    const kind = controllers === undefined ? "cgroup2 cgroup2 rw" : `cgroup cgroup rw,${controllers}`;
    const line = `${30 + index} 25 0:26 ${hierarchy.root ?? "/"} ${root}${point} rw,relatime - ${kind}\n`;
    const flags = { flag: "a" } as const;
    mkdirSync(join(root, "proc/self"), { recursive: true });
    writeFileSync(join(root, "proc/self/mountinfo"), line, flags);
    writeFileSync(join(root, "proc/self/cgroup"), `${index}:${controllers ?? ""}:${hierarchy.own}\n`, flags);
  });
}

let count = 0;
/** A tree, what the program says of it line by line, and the tree's files afterwards. */
function run(hierarchies: readonly Hierarchy[], operations: readonly string[] = [], without = "") {
  const root = join(folder, String(count++));
  mkdirSync(root);
  layOut(root, hierarchies);
  const before = filesOf(root);
  const { exitCode, stdout, stderr } = Bun.spawnSync([join(folder, "program"), root, ...operations], {
    env: without === "" ? {} : { WITHOUT: without },
    timeout: 20_000,
  });
  if (exitCode !== 0) throw new Error(`code ${exitCode}: ${stderr}`);
  const lines = stdout
    .toString()
    .split("\n")
    .map((line) => line.trim());
  return { lines: lines.slice(0, -1), before, after: filesOf(root) };
}

/** Path and content of every file of the groups, process numbers as SELF. */
function filesOf(root: string): Record<string, string> {
  const entries = readdirSync(root, { recursive: true, encoding: "utf8" }).sort();
  const files = entries.filter((path) => path.startsWith("sys/") && statSync(join(root, path)).isFile());
  return Object.fromEntries(
    files.map((path) => {
      const text = readFileSync(join(root, path), "utf8").trim();
      return [
        path,
        path.endsWith("cgroup.procs")
          ? text
              .replace(/\d{3,}/g, "SELF")
              .split("\n")
              .sort()
              .join(" ")
          : text,
      ];
    }),
  );
}

const v2 = (own: string, groups: Hierarchy["groups"], more: Partial<Hierarchy> = {}): Hierarchy => ({
  ...{ point: MOUNT, own, groups },
  ...more,
});
const owned = { owned: true };
const self = { processes: "SELF" };
const USER = "user.slice/user-1000.slice";
const MANAGER = `${USER}/user@1000.service`;

/** As systemd lays it out for a user who has a manager of their own, which is delegated `delegated`. */
const scope = (delegated: string) =>
  v2(`/${MANAGER}/app.slice/ale.scope`, {
    "": { hands: ALL },
    "user.slice": { hands: delegated },
    [USER]: { hands: delegated },
    [MANAGER]: { ...owned, hands: delegated },
    [`${MANAGER}/app.slice`]: { ...owned, hands: delegated },
    [`${MANAGER}/app.slice/ale.scope`]: { ...owned, ...self },
  });
/** A unit with `User=` and `Delegate=yes`. */
const unit = (more: Group = {}) =>
  v2("/system.slice/ale.service", {
    "": { hands: ALL },
    "system.slice": { hands: ALL },
    "system.slice/ale.service": { ...owned, ...self, ...more },
  });
const login = v2(`/${USER}/session-1.scope`, {
  "": { hands: ALL },
  "user.slice": { hands: ALL },
  [USER]: { hands: ALL },
  [`${USER}/session-1.scope`]: self,
});
const rootUnit = v2("/system.slice/ale.service", {
  "": { ...owned, hands: ALL },
  "system.slice": { ...owned, hands: "memory pids" },
  "system.slice/ale.service": { ...owned, ...self },
});
const MEMORY_FILES = [
  "memory.limit_in_bytes",
  "memory.usage_in_bytes",
  "memory.max_usage_in_bytes",
  "memory.oom_control",
];
const one = (controllers: string, files: readonly string[], own = "/"): Hierarchy => ({
  ...{ controllers, point: `${MOUNT}/${controllers}`, own, files: ["tasks", ...files], groups: { "": owned } },
});
const V1 = [
  one("memory", MEMORY_FILES),
  one("pids", ["pids.max", "pids.events"]),
  one("cpu,cpuacct", ["cpu.shares", "cpu.cfs_quota_us", "cpuacct.usage"]),
];
const beside = (top: string) => v2("/", { "": { ...owned, ...self } }, { point: `${MOUNT}/unified`, top });

describe("what is found", () => {
  const at = (path: string) => `${MOUNT}/${path}ale-test`;
  const aside = (path: string) => ` aside ${MOUNT}${path}`;
  test.each<[string, readonly Hierarchy[], string]>([
    ["version 2: root in a unit; the processor is handed down, too", [rootUnit], `cgroup2 ${at("system.slice/")}`],
    ["version 2: root at the machine's root", [v2("/", { "": { ...owned, ...self } })], `cgroup2 ${at("")}`],
    ["version 2: below a user's manager", [scope(ALL)], `cgroup2 ${at(`${MANAGER}/app.slice/`)}`],
    [
      "version 2: below a user's manager without the processor",
      [scope("memory pids")],
      `cgroup2-nocpu ${at(`${MANAGER}/app.slice/`)}`,
    ],
    [
      "version 2: a delegated unit",
      [unit()],
      `cgroup2 ${at("system.slice/ale.service/")}${aside("/system.slice/ale.service")}`,
    ],
    ["version 2: a login", [login], "rlimits"],
    [
      "version 2: a container with its group as the root",
      [v2("/", { "": { ...owned, ...self } }, { real: false })],
      `cgroup2 ${at("")}${aside("")}`,
    ],
    [
      "version 2: a container that sees its group's whole path",
      [v2("/docker/1", { "": { ...owned, ...self } }, { real: false, root: "/docker/1" })],
      `cgroup2 ${at("")}${aside("")}`,
    ],
    ["version 2: a container that may write nothing", [v2("/", { "": self }, { real: false })], "rlimits"],
    ["version 2: a group that is not mounted", [v2("/../other", { "": { ...owned, ...self } })], "rlimits"],
    [
      "version 2: a kernel without the memory controller",
      [v2("/", { "": { ...owned, ...self } }, { top: "pids" })],
      `rlimits ${at("")}`,
    ],
    ["version 1", V1, `cgroup1 ${at("memory/")} ${at("pids/")} ${at("cpu,cpuacct/")}`],
    ["version 1 without a limit on the processor", V1.slice(0, 2), `cgroup1-nocpu ${at("memory/")} ${at("pids/")}`],
    [
      "both, controllers in version 1",
      [...V1, beside("")],
      `cgroup1 ${at("memory/")} ${at("pids/")} ${at("cpu,cpuacct/")}`,
    ],
    [
      "both, memory and processes in version 2",
      [beside("memory pids"), ...V1.slice(2)],
      `cgroup1+2 ${at("unified/")} ${at("cpu,cpuacct/")}`,
    ],
    ["none", [], "rlimits"],
  ])("%s", (_name, hierarchies, found) => {
    expect(run(hierarchies).lines).toEqual([found]);
  });

  test("a kernel that cannot limit the processor", () => {
    expect(run([rootUnit], ["create"], "cpu.max").lines).toEqual([`cgroup2-nocpu ${at("system.slice/")}`, "into"]);
  });
});

describe("what is left as it was", () => {
  test.each<[string, readonly Hierarchy[]]>([
    ["a login's groups", [login]],
    ["a unit's, once the launcher has ended", [unit()]],
    ["a unit's that holds a process of another pid namespace", [unit({ processes: "SELF 0" })]],
    ["a scope's, which never handed anything down", [scope(ALL)]],
    ["version 1", V1],
  ])("%s", (_name, hierarchies) => {
    const { before, after } = run(hierarchies, ["create", "remove", "close"]);
    expect(after).toEqual(before);
  });

  test("by a launcher that was killed: the next one's", () => {
    const left = v2("/system.slice/ale.service/ale-own", {
      "": { hands: ALL },
      "system.slice": { hands: ALL },
      "system.slice/ale.service": { ...owned, hands: ALL },
      "system.slice/ale.service/ale-own": { ...owned, ...self },
    });
    const { lines, after } = run([left], ["create", "remove", "close"]);
    expect(lines[0]).toBe(`cgroup2 ${MOUNT}/system.slice/ale.service/ale-test aside ${MOUNT}/system.slice/ale.service`);
    expect(after).toEqual(run([unit()], ["create", "remove", "close"]).after);
  });

  test("the process that cannot be moved leaves nothing but rlimits", () => {
    expect(run([unit({ processes: "SELF 0" })]).lines).toEqual(["rlimits"]);
  });
});

describe("a sandbox's group", () => {
  const group = (path: string) => `${MOUNT}/${path}ale-test/s1`;
  const inScope = group(`${MANAGER}/app.slice/`);
  const cat = (...names: string[]) => names.map((name) => `cat ${inScope}/${name}`);

  test("version 2: limits, born into it", () => {
    const files = cat("memory.max", "memory.swap.max", "pids.max", "cpu.max");
    expect(run([scope(ALL)], ["create", ...files]).lines.slice(1)).toEqual([
      ...["into", String(80 << 20), "0", "34", "50000 100000"],
    ]);
  });

  test("version 2: freezing, what is counted, and the end", () => {
    const { lines } = run(
      [scope(ALL)],
      [
        ...["create", "freeze", ...cat("cgroup.freeze"), `put ${inScope}/memory.events low 0`, "events"],
        ...[`put ${inScope}/memory.events oom_kill 3`, `put ${inScope}/pids.events max 7`, "events", "statistics"],
        ...["remove", "remove"],
      ],
    );
    expect(lines.slice(1)).toEqual([
      ...[
        "into",
        "1",
        "1",
        "memory 0 pids 0",
        "memory 3 pids 7",
        "cpu 1500000 memory 4096 peak 8192 kills 3",
        "1",
        "1",
      ],
    ]);
  });

  test("version 2 before Linux 5.19: the most memory is not known", () => {
    expect(run([scope(ALL)], ["create", "statistics"], "memory.peak").lines[2]).toBe(
      "cpu 1500000 memory 4096 peak -1 kills 0",
    );
  });

  test("version 2 without the processor: its time is not known, nothing else is missing", () => {
    const { lines } = run([scope("memory pids")], ["create", ...cat("memory.max", "cpu.max"), "statistics"]);
    expect(lines.slice(1)).toEqual(["into", String(80 << 20), "", "cpu -1 memory 4096 peak 8192 kills 0"]);
  });

  test("version 1: limits, joined by itself, not frozen", () => {
    const of = (tree: string, name: string) => `cat ${group(`${tree}/`)}/${name}`;
    const files = [
      of("memory", "memory.limit_in_bytes"),
      of("pids", "pids.max"),
      of("cpu,cpuacct", "cpu.cfs_quota_us"),
    ];
    const { lines } = run(V1, ["create", ...files, "freeze", "statistics", "remove"]);
    expect(lines.slice(1)).toEqual([
      ...["attach", String(80 << 20), "34", "50000", "0"],
      ...["cpu 2000000 memory 2000000000 peak 2000000000 kills 0", "1"],
    ]);
  });

  test("a limit that cannot be set is an error that names the file, and leaves no group", () => {
    const { lines, after } = run([scope(ALL)], ["create"], "memory.max");
    expect(lines[1]).toEndWith("ale-test/s1: memory.max: No such file or directory");
    expect(Object.keys(after).filter((path) => path.includes("/s1/"))).toEqual([]);
  });
});
