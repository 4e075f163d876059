/**
 * What the episodes of a training step cost without a policy: `bun run bench sandbox [--episodes 256] [--concurrency 16] [--json]`
 *
 * Each takes a sandbox from the warm pool, uploads files, runs two commands and is graded. Single operations, beside other
 * programs, are measured by `ale bench sandbox`.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { EnvironmentSpec, Task } from "../src/core/types.ts";
import { grade } from "../src/sandbox/grading.ts";
import { createSandboxProvider, type NativeSandboxProvider } from "../src/sandbox/supervisor.ts";

const { values } = parseArgs({
  options: {
    episodes: { type: "string", default: "256" },
    concurrency: { type: "string", default: "16" },
    warm: { type: "string", default: "64" },
    json: { type: "boolean", default: false },
  },
});

const ENVIRONMENT: EnvironmentSpec = {
  profile: "host",
  workdir: "/work",
  cpus: 1,
  memoryBytes: 64 << 20,
  diskBytes: 16 << 20,
  pids: 32,
};
const LIMITS = { timeoutMs: 5000, maxOutputBytes: 1024 };
const file = (path: string, content: string) => ({ path, content: new TextEncoder().encode(content), mode: 0o644 });

const TASK: Task = {
  id: "bench/rename",
  suite: "bench",
  family: "rename",
  split: "train",
  seed: 0,
  instruction: "Put ok into done.txt",
  environment: ENVIRONMENT,
  files: [file("input.txt", "hello\n"), file("notes/a.txt", "a\n")],
  tests: [
    file("expected", "ok\n"),
    file(
      "test.sh",
      'if diff -q /work/done.txt /tests/expected >/dev/null; then r=1; else r=0; fi\necho "{\\"reward\\": $r}" > /logs/verifier/reward.json\n',
    ),
  ],
  solution: [],
  demonstrations: [],
  timeouts: { command: 5, agent: 30, verifier: 10 },
};

/** Samples of named phases in milliseconds. */
class Phases {
  readonly #samples = new Map<string, number[]>();

  add(name: string, ms: number): void {
    const samples = this.#samples.get(name) ?? [];
    samples.push(ms);
    this.#samples.set(name, samples);
  }

  async time<T>(name: string, work: () => Promise<T>): Promise<T> {
    const started = performance.now();
    const result = await work();
    this.add(name, performance.now() - started);
    return result;
  }

  rows(): Row[] {
    return [...this.#samples].map(([name, samples]) => {
      const sorted = samples.toSorted((a, b) => a - b);
      const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
      return { name, n: sorted.length, p50: at(0.5), p99: at(0.99) };
    });
  }
}

interface Row {
  readonly name: string;
  readonly n: number;
  readonly p50: number;
  readonly p99: number;
}

async function inParallel(count: number, concurrency: number, work: (index: number) => Promise<void>): Promise<number> {
  let next = 0;
  const started = performance.now();
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  return performance.now() - started;
}

async function episode(provider: NativeSandboxProvider, phases: Phases): Promise<void> {
  const started = performance.now();
  const sandbox = await phases.time("create", () => provider.create(ENVIRONMENT));
  await phases.time("upload", () => sandbox.upload(ENVIRONMENT.workdir, TASK.files));
  await phases.time("command", () => sandbox.run("cat input.txt; ls", LIMITS));
  await phases.time("command", () => sandbox.run("echo ok > done.txt", LIMITS));
  const result = await grade(provider, sandbox, TASK);
  if (result.reward !== 1) throw new Error(`an episode scored ${result.reward}: ${result.error}`);
  phases.add("grade", result.ms);
  for (const [name, ms] of Object.entries(result.phases)) phases.add(`grade ${name}`, ms);
  await phases.time("destroy", () => sandbox.destroy());
  phases.add("whole episode", performance.now() - started);
}

const stateDir = await mkdtemp(join(tmpdir(), "ale-bench-"));
try {
  await using provider = await createSandboxProvider({ maskPaths: [], stateDir });
  const episodes = Number(values.episodes);
  provider.warm(ENVIRONMENT, Number(values.warm));
  while (provider.warmCount < Number(values.warm)) await Bun.sleep(5);
  const phases = new Phases();
  const cpu = process.cpuUsage();
  const total = await inParallel(episodes, Number(values.concurrency), () => episode(provider, phases));
  const used = process.cpuUsage(cpu);
  const rows = phases.rows();
  const summary = {
    isolation: provider.isolation,
    episodes,
    stepSeconds: total / 1000,
    controlCpuSeconds: (used.user + used.system) / 1e6,
  };
  if (values.json) console.log(JSON.stringify({ ...summary, rows }));
  else {
    for (const { name, n, p50, p99 } of rows)
      console.log(
        `${name.padEnd(34)} n=${String(n).padEnd(5)} p50 ${p50.toFixed(2).padStart(8)} ms   p99 ${p99.toFixed(2).padStart(8)} ms`,
      );
    console.log(
      `\n${provider.isolation}: ${episodes} episodes in ${summary.stepSeconds.toFixed(2)} s (control process: ${summary.controlCpuSeconds.toFixed(2)} s of cpu)`,
    );
  }
} finally {
  await rm(stateDir, { recursive: true, force: true });
}
