import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import type { Command } from "commander";
import { aleHome, defaultStorePath } from "../config/paths.ts";
import { AleError, deadline, errorMessage } from "../core/errors.ts";
import { formatBytes } from "../tui/format.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { type CommandLine, examples } from "./command-line.ts";
import {
  type Probe,
  probeCpu,
  probeFolder,
  probeHome,
  probeMemory,
  probeOpenFiles,
  probePort,
  probeWorkingFolder,
} from "./probes.ts";
import { versionInfo } from "./version-info.ts";

interface Section {
  readonly title: string;
  /** How long it may take before it counts as failed; `SECTION_MS` when omitted. */
  readonly ms?: number;
  readonly probe: () => Promise<readonly Probe[]> | readonly Probe[];
}

/** How long a section may take before it counts as failed. */
const SECTION_MS = 30_000;
/** A GPU's driver in software compiles slowly. */
const DEVICES_MS = 120_000;
/** A container is made with each engine there is. */
const BACKENDS_MS = 90_000;
const DEFAULT_PORT = 4242;

export function defineDoctor(command: Command, cli: CommandLine): void {
  command
    .option("--no-self-test", "do not compute on the devices, only look for them")
    .option("--run <run>", "what a running run waits for, instead of checking the machine")
    .option("--store <file>", "with --run: database of runs (default: ale.db in ALE_HOME)")
    .option("--json", "print JSON: ok, and one entry per check; with --run: waiting, one entry per wait")
    .addHelpText(
      "after",
      examples(
        ["ale doctor", "every check, and the fix for each that failed"],
        ["ale doctor --json", "for programs; exit code 1 when something required is missing"],
        ["ale doctor --run runs/second", "who waits for what since when, and until when at most"],
        ["ale doctor --json | jq '.checks[] | select(.ok | not)'", "only what failed"],
      ),
    )
    .action(async (options: { json?: boolean; selfTest: boolean; run?: string; store?: string }) => {
      const { run, ...others } = options;
      if (run !== undefined) {
        const { examineRun } = await import("./doctor-run.ts");
        return examineRun(cli, { ...others, run });
      }
      const sections = doctorSections(cli.env, options.selfTest);
      const checks: (Probe & { readonly section: string })[] = [];
      if (!options.json) {
        const { ale, revision, platform, kernel } = versionInfo();
        cli.print(`ale ${ale} (${revision}) on ${platform}, kernel ${kernel}`);
      }
      for (const section of sections) {
        const probes = await runSection(section);
        checks.push(...probes.map((probe) => ({ section: section.title, ...probe })));
        if (!options.json) printSection(cli, section.title, probes);
      }
      const failed = checks.filter((check) => !check.ok && check.required !== false);
      if (options.json) {
        cli.printJson({ ok: failed.length === 0, version: versionInfo(), checks: checks.map(withRequired) });
      } else {
        cli.print("");
        cli.print(verdict(cli, failed, checks));
      }
      if (failed.length > 0) cli.exitCode = 1;
    });
}

function doctorSections(env: CommandLine["env"], selfTest: boolean): Section[] {
  return [
    { title: "machine", probe: () => [...probeCpu(), probeMemory(), probeOpenFiles()] },
    { title: "engine", probe: async () => (await import("../runtime/doctor.ts")).probeNatives() },
    {
      title: "devices",
      ms: DEVICES_MS,
      probe: async () => (await import("../device/doctor.ts")).probeDevices(selfTest),
    },
    { title: "sandbox", probe: async () => (await import("../sandbox/doctor.ts")).probeSandbox() },
    {
      title: "other backends",
      ms: BACKENDS_MS,
      probe: async () => (await import("../sandbox/backends/doctor.ts")).probeBackends(),
    },
    {
      title: "places",
      probe: async () => [
        ...probeHome(env),
        probeFolder("temporary folder", tmpdir(), false),
        probeWorkingFolder(),
        await probeStore(defaultStorePath(env)),
      ],
    },
    { title: "service", probe: async () => [await probePort(DEFAULT_PORT)] },
  ];
}

async function probeStore(path: string): Promise<Probe> {
  if (!existsSync(path))
    return { name: "store", ok: true, required: false, detail: `${path} will be made by the first run` };
  try {
    const { openReader } = await import("../store/connection.ts");
    const connection = await openReader(path);
    connection.client.close();
    return { name: "store", ok: true, detail: `${path}, ${formatBytes(Bun.file(path).size)}` };
  } catch (error) {
    const hint = error instanceof AleError ? error.hint : undefined;
    return { name: "store", ok: false, detail: errorMessage(error), hint: hint ?? `move ${aleHome()} away` };
  }
}

/** A section that throws or hangs is itself a failed check: doctor always comes to its end. */
async function runSection({ title, ms = SECTION_MS, probe }: Section): Promise<readonly Probe[]> {
  try {
    return await deadline(`checking ${title}`, ms, Promise.resolve().then(probe));
  } catch (error) {
    const hint =
      error instanceof AleError && error.hint !== undefined ? error.hint : "run ale doctor again with ALE_DEBUG=1";
    return [{ name: title, ok: false, detail: errorMessage(error), hint }];
  }
}

function printSection(cli: CommandLine, title: string, probes: readonly Probe[]): void {
  const { paint } = cli;
  cli.print(`\n${paint("bold", title)}`);
  const width = Math.max(20, ...probes.map((probe) => Bun.stringWidth(probe.name)));
  for (const { name, ok, required, detail, hint } of probes) {
    const mark = ok ? paint("green", "✓") : required === false ? paint("yellow", "!") : paint("red", "✗");
    cli.print(`  ${mark} ${sanitizeLine(name, 40).padEnd(width)}  ${sanitizeLine(detail, 300)}`);
    if (!ok && hint) cli.print(`    ${" ".repeat(width)}  ${paint("dim", "→")} ${sanitizeLine(hint, 400)}`);
  }
}

function verdict(cli: CommandLine, failed: readonly Probe[], checks: readonly Probe[]): string {
  const { paint } = cli;
  const advice = checks.filter((check) => !check.ok && check.required === false).length;
  const notes = advice === 0 ? "" : `, ${advice} ${advice === 1 ? "thing" : "things"} could be better (!)`;
  if (failed.length === 0) return `${paint("green", "ready")}${notes}`;
  const names = failed.map((check) => sanitizeLine(check.name, 40)).join(", ");
  return `${paint("red", "not ready")}: ${names}${notes}`;
}

function withRequired({ hint, ...check }: Probe & { readonly section: string }) {
  return { ...check, required: check.required !== false, ...(check.ok || hint === undefined ? {} : { hint }) };
}
