/**
 * What depends on the kernel and its settings, in small virtual machines: pure version 2 of control groups as systemd lays it out, as root, as
 * an ordinary user and in a container, and kernels that forbid user namespaces. Skipped where there is no qemu or no kernel (machine.ts).
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { check, doctorChecks, executable, titled } from "../binary/support.ts";
import { makeDisk } from "./disk.ts";
import { findKernels, machineObstacle, REPOSITORY, runMachine, type Step, type StepResult } from "./machine.ts";

const obstacle = machineObstacle();
const kernels = findKernels();
const [oldest, newest] = [kernels.at(0), kernels.at(-1)];
/** For everything one machine runs, without acceleration and on a busy machine. */
const SECONDS = 840;

const PREAMBLE = `. /run/guest/groups.sh; cd ${REPOSITORY}; launcher=$(echo .build/launcher/*/ale-launcher)`;
const PLACES = ["root root", "login 1000", "delegated 1000", "service 1000", "container root"];
/** What the launcher finds in each place. */
const LOOK = PLACES.map((place) => `echo "${place}:$(within ${place} $launcher probe | grep '^control groups')"`).join(
  "\n",
);
const guestTests = (place: string, file: string, pattern = "") =>
  `within ${place} bun test --timeout=120000 --test-name-pattern='${pattern}' ${file} 2>&1`;
/** Limits that need neither a compiler nor a quick machine. */
const LIMITS = "groups auto.*(fork bomb|more processes|hog: |within its limit|neighbour)";

const step = (name: string, seconds: number, ...lines: string[]): Step => ({
  ...{ name, seconds },
  script: [PREAMBLE, ...lines].join("\n"),
});
const STEPS: readonly Step[] = [
  step("all", 120, 'lay_out "+memory +pids +cpu"', LOOK),
  step(
    "service",
    60,
    "within service 1000 sh -c 'cat /proc/self/cgroup; ls -d /sys/fs/cgroup/system.slice/owned.service/*/ 2>&1'",
  ),
  step("doctor", 120, "within root root ale doctor --json"),
  step("root", 240, guestTests("root root", "./test/kernel/guest/version-two.ts")),
  step("delegated", 240, guestTests("delegated 1000", "./test/kernel/guest/version-two.ts")),
  step("unit", 240, guestTests("service 1000", "./test/kernel/guest/version-two.ts", "level|memory|frozen")),
  // Launchers that were killed, and others beside them: the unit is as it was all the same.
  step(
    ...(["killed", 240, guestTests("service 1000", "./test/sandbox/lifecycle.test.ts", "killed")] as const),
    "code=$?; ls -d $top/$(group_of service)/*/; exit $code",
  ),
  step("limits", 240, guestTests("delegated 1000", "./test/sandbox/limits.test.ts", LIMITS)),
  step("run", 60, "within delegated 1000 ale sandbox run --least-isolation cgroup -- sh -c 'id -u; echo $PWD'"),
];
/** Refused with the command that helps; without namespaces where that is allowed. */
const FORBIDDEN = (setting: string) => [
  `sysctl -w ${setting}`,
  "within login 1000 ale sandbox run -- id",
  "echo code $?",
  "within login 1000 ale sandbox run --least-isolation landlock -- sh -c 'id -u; echo $PWD; unshare -U true || echo refused'",
];
const OTHER_STEPS: readonly Step[] = [
  step(
    "fewer",
    120,
    'lay_out "+memory +pids"',
    LOOK,
    "within delegated 1000 ale sandbox run --least-isolation cgroup -- id",
  ),
  step("forbidden", 120, ...FORBIDDEN("kernel.unprivileged_userns_clone=0")),
  step("doctor", 120, "within login 1000 ale doctor --json"),
  step("none", 120, ...FORBIDDEN("user.max_user_namespaces=0"), "ale sandbox run -- id"),
];
const OLD_STEPS: readonly Step[] = [
  step("doctor", 120, 'lay_out "+memory +pids +cpu"', "within delegated 1000 ale doctor --json"),
  step("delegated", 240, guestTests("delegated 1000", "./test/kernel/guest/version-two.ts")),
  step("run", 60, "within root root ale sandbox run -- sh -c 'touch /usr/local/x && ls /usr/local; id -u'"),
];

const folder = mkdtempSync(join(tmpdir(), "ale-kernel-test-"));
const disk = join(folder, "disk");
beforeAll(async () => {
  if (obstacle !== undefined) return;
  await makeDisk(disk, join(folder, "staging"), executable());
  rmSync(join(folder, "staging"), { recursive: true });
}, 300_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** `bun test` in the machine: everything that ran passed, and something did. */
function expectPassed(result: StepResult | undefined, atLeast: number): void {
  const { output = "", code } = result ?? {};
  const good = code === 0 && /^ *0 fail$/m.test(output) && Number(/^ *(\d+) pass$/m.exec(output)?.[1]) >= atLeast;
  if (!good) console.error(output);
  expect(good).toBe(true);
}

const found = (result: StepResult | undefined) =>
  Object.fromEntries(
    (result?.output ?? "").split("\n").flatMap((line) => {
      const [, place, ok, detail] = /^(\w+) \w+:control groups\t([01])\t(.*)$/.exec(line) ?? [];
      return place === undefined ? [] : [[place, `${ok} ${detail}`]];
    }),
  );
const asJson = ({ code, output }: StepResult) =>
  doctorChecks({ exitCode: code, stdout: output.slice(output.indexOf("{")), stderr: "", ms: 0 });

describe.skipIf(obstacle !== undefined)(titled("kernels in virtual machines", obstacle), () => {
  const boot = async (kernel: typeof newest, steps: readonly Step[]) => {
    if (kernel === undefined) throw new Error("no kernel");
    const results = await runMachine(kernel, disk, steps, SECONDS);
    const times = [...results].map(([name, { ms }]) => `${name} ${(ms / 1000).toFixed(0)} s`);
    console.log(`Linux ${kernel.version}: ${times.join(", ")}`);
    return (name: string): StepResult => {
      const result = results.get(name);
      if (result === undefined) throw new Error(`the machine did not run ${name}`);
      return result;
    };
  };

  test(
    "pure version 2: the level, the limits, freezing and killing, as root and as a user",
    async () => {
      const of = await boot(newest, STEPS);
      const all = "1 cgroup2: memory pids cpu";
      // A login is not delegated. In a unit and in a container the processes move down to make room, and back.
      const everywhere = {
        root: all,
        delegated: all,
        service: all,
        container: all,
        login: "0 rlimits: none can be written",
      };
      expect(found(of("all"))).toEqual(everywhere);
      expect(of("service").output).toMatch(/^0::\/system.slice\/owned.service\n.*No such file/);
      const checks = asJson(of("doctor"));
      // Ids of their own depend on the kernel and on the machine's file systems.
      expect(check(checks, "sandbox").detail).toMatch(/^root\+(sharedids\+)?userns\+seccomp\+cgroup2; /);
      expect(checks.filter(({ ok, required }) => required && !ok)).toEqual([]);
      for (const name of ["root", "delegated"]) expectPassed(of(name), 8);
      expectPassed(of("unit"), 4);
      expectPassed(of("killed"), 4);
      expect(of("killed").output).toContain("owned.service/*/': No such file");
      expectPassed(of("limits"), 7);
      expect(of("run")).toMatchObject({ code: 0, output: "0\n/work\n" });
    },
    SECONDS * 1000,
  );

  test(
    "less than all: no processor delegated, user namespaces forbidden",
    async () => {
      const of = await boot(newest, OTHER_STEPS);
      const [fewer, none] = ["0 cgroup2-nocpu: memory pids", "0 rlimits: none can be written"];
      // Root hands the processor down itself.
      const all = "1 cgroup2: memory pids cpu";
      expect(found(of("fewer"))).toEqual({ root: all, delegated: fewer, service: all, container: all, login: none });
      expect(of("fewer").output).toContain('asks for isolation "cgroup" at least, and sandboxes here reach "userns"');
      for (const [name, command] of [
        ["forbidden", "sysctl -w kernel.unprivileged_userns_clone=1"],
        ["none", "sysctl -w user.max_user_namespaces=65536"],
      ] as const) {
        const [refused = "", weak = ""] = of(name).output.split("code 1\n");
        expect(refused).toContain(`next: ${command};`);
        expect(weak).toMatch(/user\+landlock[67]\+seccomp\+rlimits[\s\S]*\n1000\n\/work\n[\s\S]*refused\n/);
      }
      expect(of("none").output).toEndWith("--least-isolation landlock; then `ale doctor`\n");
      const checks = asJson(of("doctor"));
      expect(check(checks, "user namespaces")).toMatchObject({ ok: false, required: true });
      expect(check(checks, "landlock").detail).toMatch(/^ABI [67]$/);
    },
    SECONDS * 1000,
  );

  test.skipIf(oldest === newest)(
    "the release's own kernel",
    async () => {
      const of = await boot(oldest, OLD_STEPS);
      const checks = asJson(of("doctor"));
      expect(checks.filter(({ ok, required }) => required && !ok)).toEqual([]);
      expect(check(checks, "sandbox").detail).toStartWith("user+userns+seccomp+cgroup2; ");
      expectPassed(of("delegated"), 8);
      expect(of("run")).toMatchObject({ code: 0, output: expect.stringMatching(/^bin\nx\n0\n$/) });
    },
    SECONDS * 1000,
  );
});
