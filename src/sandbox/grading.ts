/**
 * Grading: the task's `tests/test.sh` decides, after the agent's processes are gone.
 *
 *  - `clean`    only the working directory is carried into a fresh sandbox; nothing else the agent did can matter
 *  - `stopped`  the same sandbox, its processes ended; for tasks whose result lies outside the working directory
 *  - `live`     the same sandbox, its processes running; for tasks that leave a service behind
 */

import { AleError, errorMessage } from "../core/errors.ts";
import type { CommandResult, Sandbox, SandboxProvider } from "../core/ports.ts";
import type { ExecRecord, GradingMode, Task } from "../core/types.ts";
import type { NativeSandbox } from "./native-sandbox.ts";
import { ProgramMissing } from "./programs.ts";
import { quoteFound, readReward, VERIFIER_FOLDER, type Verdict, type VerdictDetails } from "./reward.ts";

const TESTS_FOLDER = "/tests";
const MAX_OUTPUT_BYTES = 16 << 10;

export interface GradeOptions {
  /** Default `clean`. */
  readonly mode?: GradingMode;
  /** Also look for a report of how many tests passed. */
  readonly withTests?: boolean;
  readonly signal?: AbortSignal;
  /** Called with the fresh sandbox of `clean` when it is there. */
  readonly onSandbox?: (sandbox: Sandbox) => void;
  /** Called when the tests have run, with the id of their sandbox. */
  readonly onTested?: (sandbox: string, record: Omit<ExecRecord, "kind">) => void;
}

/** Milliseconds of each part of grading; parts a mode does not have are 0. */
export interface GradePhases {
  /** Ending the agent's processes. */
  readonly stop: number;
  /** Taking the working directory out. */
  readonly export: number;
  /** Making the fresh sandbox; done while the agent's is stopped and exported. */
  readonly create: number;
  /** Placing working directory and tests. */
  readonly place: number;
  readonly test: number;
  /** Ending the tests' processes and reading the reward. */
  readonly read: number;
}

export interface GradeResult extends VerdictDetails {
  readonly reward: number;
  readonly mode: GradingMode;
  readonly ms: number;
  readonly phases: GradePhases;
  /** Why there is no reward: the episode ends with `grader_error`. */
  readonly error?: string;
}

type GradeSandbox = Sandbox & Partial<Pick<NativeSandbox, "replaceFolder">>;

/** Grades what is in a sandbox. Rejects only when cancelled; everything else that fails is in `error`. */
export async function grade(
  provider: SandboxProvider,
  sandbox: Sandbox,
  task: Task,
  options: GradeOptions = {},
): Promise<GradeResult> {
  const mode = options.mode ?? "clean";
  const clock = new PhaseClock();
  const started = performance.now();
  const done = (verdict: Verdict): GradeResult => ({
    reward: 0,
    ...verdict,
    mode,
    ms: performance.now() - started,
    phases: clock.phases,
  });
  try {
    return done(
      mode === "clean"
        ? await gradeClean(provider, sandbox, task, clock, options)
        : await gradeInPlace(sandbox, task, mode, clock, options),
    );
  } catch (error) {
    if (options.signal?.aborted || (error instanceof AleError && error.code === "interrupted")) throw error;
    return done({ error: errorMessage(error) });
  }
}

async function gradeClean(
  provider: SandboxProvider,
  sandbox: Sandbox,
  task: Task,
  clock: PhaseClock,
  options: GradeOptions,
): Promise<Verdict> {
  const { environment } = task;
  const making = clock.time("create", () => makeFresh(provider, task, options.signal));
  making.catch(() => {}); // awaited below, when the agent's sandbox is done with
  let archive: Uint8Array;
  try {
    await clock.time("stop", () => sandbox.killAll());
    archive = await clock.time("export", () => sandbox.exportFolder(environment.workdir, environment.diskBytes));
  } catch (error) {
    await making.then((fresh) => fresh.destroy()).catch(() => {});
    throw error;
  }
  const fresh = await making;
  options.onSandbox?.(fresh);
  try {
    await clock.time("place", async () => {
      await Promise.all([
        fresh.importFolder(environment.workdir, archive),
        fresh.upload(TESTS_FOLDER, task.tests),
        fresh.upload(VERIFIER_FOLDER, []),
      ]);
    });
    return await runTests(fresh, task, clock, options);
  } finally {
    await fresh.destroy();
  }
}

/** The tests need no shell of the session kind, which native providers can leave out. */
function makeFresh(provider: SandboxProvider, task: Task, signal: AbortSignal | undefined): Promise<Sandbox> {
  const native = provider as SandboxProvider & { createBare?: SandboxProvider["create"] };
  const { network: _, ...rest } = task.environment;
  const environment = task.verifierNetwork === undefined ? rest : { ...rest, network: task.verifierNetwork };
  return native.createBare === undefined
    ? provider.create(environment, signal)
    : native.createBare(environment, signal);
}

/** From here on the sandbox may reach what the tests may, and not what the agent might. */
async function switchNetwork({ network }: Sandbox, task: Task): Promise<void> {
  const wanted = task.verifierNetwork ?? { mode: "none", allow: [] };
  if (wanted.mode === "none" && (network?.spec.mode ?? "none") === "none") return;
  if (network === undefined) throw new AleError("sandbox", "the tests need a network, which their sandbox cannot have");
  await network.change(wanted);
}

async function gradeInPlace(
  sandbox: GradeSandbox,
  task: Task,
  mode: GradingMode,
  clock: PhaseClock,
  options: GradeOptions,
): Promise<Verdict> {
  if (mode === "stopped") await clock.time("stop", () => sandbox.killAll());
  const { replaceFolder } = sandbox;
  if (replaceFolder === undefined)
    return { error: `grading mode ${mode} needs the native sandbox backend; use mode clean` };
  await clock.time("place", async () => {
    await switchNetwork(sandbox, task);
    // The agent may have left files, or links, where these go.
    await replaceFolder.call(sandbox, TESTS_FOLDER, task.tests);
    await replaceFolder.call(sandbox, VERIFIER_FOLDER, []);
  });
  return runTests(sandbox, task, clock, options);
}

async function runTests(
  sandbox: Sandbox,
  task: Task,
  clock: PhaseClock,
  { signal, withTests, onTested }: GradeOptions,
): Promise<Verdict> {
  const at = Date.now();
  const result = await clock.time("test", () => runScript(sandbox, task, signal));
  const { exitCode, ms } = result;
  onTested?.(sandbox.id, { at, ms, command: `bash ${TESTS_FOLDER}/test.sh`, exitCode });
  return clock.time("read", async () => {
    // Nothing may write while the reward is read.
    await sandbox.killAll();
    const verdict = await readReward(sandbox, withTests);
    if (!("error" in verdict) && result.status === "exited") return verdict;
    const limits = await sandbox.limitEvents();
    return { error: explain(result, task, limits, "error" in verdict ? verdict.error : undefined) };
  });
}

/** bash, or a plain shell where the profile has no bash. */
async function runScript(sandbox: Sandbox, task: Task, signal: AbortSignal | undefined): Promise<CommandResult> {
  const options = {
    timeoutMs: task.timeouts.verifier * 1000,
    maxOutputBytes: MAX_OUTPUT_BYTES,
    cwd: task.environment.workdir,
    ...(signal === undefined ? {} : { signal }),
  };
  const script = `${TESTS_FOLDER}/test.sh`;
  try {
    return await sandbox.exec(["bash", script], options);
  } catch (error) {
    if (!(error instanceof ProgramMissing)) throw error;
    return await sandbox.exec(["sh", script], options);
  }
}

function explain(
  result: CommandResult,
  task: Task,
  limits: { readonly memory: number; readonly pids: number; readonly disk: number },
  missing: string | undefined,
): string {
  const script = `${TESTS_FOLDER}/test.sh`;
  const hit = [
    limits.memory > 0 ? "ran out of memory" : "",
    limits.pids > 0 ? "hit the process limit" : "",
    limits.disk > 0 ? "filled the disk" : "",
  ].filter((part) => part !== "");
  if (result.status === "timeout") return `${script} did not finish within ${task.timeouts.verifier} s`;
  if (result.status === "output_limit") return `${script} wrote more than ${result.outputBytes} bytes of output`;
  const tail = new TextDecoder().decode(result.output.subarray(-200));
  const said = tail.trim() === "" ? "" : `; it said ${quoteFound(tail)}`;
  const limit = hit.length === 0 ? "" : ` and ${hit.join(" and ")}`;
  return `${missing ?? "the tests did not finish"} (test.sh exited with code ${result.exitCode}${limit}${said})`;
}

class PhaseClock {
  readonly phases = { stop: 0, export: 0, create: 0, place: 0, test: 0, read: 0 };

  async time<T>(phase: keyof GradePhases, work: () => Promise<T>): Promise<T> {
    const started = performance.now();
    try {
      return await work();
    } finally {
      this.phases[phase] += performance.now() - started;
    }
  }
}
