/**
 * Runs that are killed at random moments and resumed until so many kills have happened. The moments, the kinds of victims and
 * which of several is killed are drawn from a seed; what was going on at that moment is up to the machine.
 */

import { Rng } from "../../../src/core/rng.ts";
import { finish, Workspace } from "../support.ts";
import { checkCommitted, checkFinished, differences, exactMetrics, runStatus, type Shape } from "./checks.ts";
import { drawVictims, Processes, type Victim } from "./victims.ts";

export interface Series {
  readonly name: string;
  /** What `ale` is told besides the shape of the run. */
  readonly settings: readonly string[];
  readonly shape: Shape;
  /** Metrics have to be those of an uninterrupted run, to the bit. */
  readonly exact: boolean;
}

export interface SeriesResult {
  readonly name: string;
  readonly kills: Readonly<Record<Victim, number>>;
  readonly runs: number;
  readonly resumes: number;
  readonly steps: number;
  readonly episodes: number;
  /** Longest time from a kill of control until every process of the run was gone, in milliseconds. */
  readonly goneMs: number;
  readonly seconds: number;
  readonly violations: readonly string[];
}

/** A kill comes at a random moment of this share of the time an undisturbed run takes, after the last one. */
const SPREAD = 0.6;
const POLL_MS = 5;
/** Processes whose control process was killed have so long to go. */
const GONE_DEADLINE_MS = 10_000;
const RUN_DEADLINE_MS = 300_000;

const SMALL = ["--evaluation.every", "0", "--evaluation.dev", "0", "--evaluation.heldout", "2", "--sandbox.warm", "4"];

function shapeSettings({ steps, groups, groupSize }: Shape): string[] {
  const numbers = { "trainer.steps": steps, "rollout.groups": groups, "rollout.groupSize": groupSize };
  return Object.entries(numbers).flatMap(([key, value]) => [`--${key}`, `${value}`]);
}

/** A process of `ale run` or `ale resume` that is under way. */
interface Attempt {
  readonly child: ReturnType<Workspace["ale"]>;
  readonly ended: ReturnType<typeof finish>;
}

export class ChaosSeries {
  readonly #place: Workspace;
  readonly #processes: Processes;
  readonly #series: Series;
  readonly #rng: Rng;
  readonly #report: (line: string) => void;
  readonly #kills: Record<Victim, number> = { control: 0, engine: 0, launcher: 0, sandbox: 0 };
  readonly #violations: string[] = [];
  #runs = 0;
  #resumes = 0;
  #goneMs = 0;
  /** Milliseconds of an undisturbed run. */
  #runMs = 0;
  /** Newest step of the run under way that was seen in the store. */
  #committed = -1;

  /** @param command what starts ale; this checkout when omitted. @param report hears of every kill and violation. */
  constructor(series: Series, seed: number, report: (line: string) => void, command?: readonly string[]) {
    this.#place = new Workspace(command);
    this.#processes = new Processes(this.#place.home);
    this.#series = series;
    this.#rng = new Rng(`chaos/${seed}/${series.name}`);
    this.#report = report;
  }

  async run(kills: number): Promise<SeriesResult> {
    using _place = this.#place;
    const { name, shape, exact } = this.#series;
    const started = performance.now();
    await this.#undisturbed();
    const expected = exactMetrics(this.#place.path("undisturbed"));
    const victims = drawVictims(kills, this.#rng);
    let episodes = 0;
    while (this.#total < kills) {
      const run = `run-${++this.#runs}`;
      if (!(await this.#killRun(run, victims))) break;
      this.#note(run, checkFinished(this.#place.path(run), shape));
      if (exact) this.#note(run, differences(exactMetrics(this.#place.path(run)), expected));
      episodes += shape.steps * shape.groups * shape.groupSize;
    }
    await this.#waitUntilGone();
    this.#note("the end", this.#processes.left(this.#place.home));
    return {
      name,
      kills: this.#kills,
      runs: this.#runs,
      resumes: this.#resumes,
      steps: this.#runs * shape.steps,
      episodes,
      goneMs: this.#goneMs,
      seconds: (performance.now() - started) / 1000,
      violations: this.#violations,
    };
  }

  get #total(): number {
    return Object.values(this.#kills).reduce((sum, count) => sum + count, 0);
  }

  get #store(): string {
    return `${this.#place.home}/ale.db`;
  }

  #note(where: string, problems: readonly string[]): void {
    for (const problem of problems) {
      const violation = `${this.#series.name}, ${where}: ${problem}`;
      this.#violations.push(violation);
      this.#report(`VIOLATION ${violation}`);
    }
  }

  #start(run: string): Attempt {
    const { settings, shape } = this.#series;
    const all = ["--no-serve", ...shapeSettings(shape), ...SMALL, ...settings];
    return this.#attempt("run", "experiments/shell.toml", "--out", this.#place.path(run), ...all);
  }

  #attempt(...args: string[]): Attempt {
    const child = this.#place.ale(...args);
    return { child, ended: finish(child) };
  }

  async #undisturbed(): Promise<void> {
    const began = performance.now();
    const { code, err } = await this.#start("undisturbed").ended;
    if (code !== 0) throw new Error(`the undisturbed run failed: ${err}`);
    this.#runMs = performance.now() - began;
    this.#note("undisturbed", checkFinished(this.#place.path("undisturbed"), this.#series.shape));
  }

  /** One run, killed and resumed until it is finished. Returns whether it is. */
  async #killRun(run: string, victims: readonly Victim[]): Promise<boolean> {
    this.#committed = -1;
    const [began, killsBefore] = [performance.now(), this.#total];
    let attempt = this.#start(run);
    for (let killed = false; ; ) {
      const victim = victims[this.#total];
      const delay = this.#rng.next() * SPREAD * this.#runMs;
      if (victim === undefined || !(await this.#kill(victim, run, attempt, delay))) {
        const { code, err } = await withDeadline(attempt);
        // Other programs come and go: the next moments follow from how long a run takes now.
        if (this.#total === killsBefore) this.#runMs = performance.now() - began;
        if (code === 0) return true;
        this.#note(run, [`the run ended with ${code}: ${err.trim()}`]);
        if (!killed) return false;
        killed = false;
        attempt = this.#resume(run);
        continue;
      }
      killed = true;
      if (victim !== "control") continue;
      const killedAt = performance.now();
      await this.#waitUntilGone();
      this.#goneMs = Math.max(this.#goneMs, performance.now() - killedAt);
      await attempt.ended;
      this.#check(run);
      const status = runStatus(this.#store, this.#place.path(run));
      if (status === "finished") return true;
      // A run that was killed before the store knew of it has left nothing and is started again.
      attempt = status === undefined ? this.#start(run) : this.#resume(run);
    }
  }

  #resume(run: string): Attempt {
    this.#resumes++;
    return this.#attempt("resume", this.#place.path(run), "--no-serve");
  }

  /** Nothing that was committed at an earlier look may be gone. */
  #check(run: string): void {
    const { step, problems } = checkCommitted(this.#store, this.#place.path(run), this.#series.shape, this.#committed);
    this.#note(run, problems);
    this.#committed = Math.max(this.#committed, step);
  }

  /** Kills after `delay` milliseconds, as soon as there is somebody to kill. Returns false when the run ended before. */
  async #kill(victim: Victim, run: string, { child }: Attempt, delay: number): Promise<boolean> {
    const at = performance.now() + delay;
    for (;;) {
      await Bun.sleep(Math.max(POLL_MS, Math.min(200, at - performance.now())));
      if (child.exitCode !== null || child.signalCode !== null) return false;
      this.#processes.note(child.pid);
      if (performance.now() < at) continue;
      const candidates = victim === "control" ? [child.pid] : this.#processes.find(victim, child.pid);
      if (candidates.length === 0) continue;
      this.#check(run);
      if (!kill(this.#rng.pick(candidates))) continue;
      this.#kills[victim]++;
      this.#report(`${this.#series.name}, ${run}: kill ${this.#total}, ${victim}, after step ${this.#committed}`);
      return true;
    }
  }

  /** What outlives its control process longer is found by the last look at the machine. */
  async #waitUntilGone(): Promise<void> {
    const end = performance.now() + GONE_DEADLINE_MS;
    while (this.#processes.alive > 0 && performance.now() < end) await Bun.sleep(POLL_MS);
  }
}

function kill(pid: number): boolean {
  try {
    process.kill(pid, "SIGKILL");
    return true;
  } catch {
    return false; // it ended by itself
  }
}

async function withDeadline({ child, ended }: Attempt): ReturnType<typeof finish> {
  const timer = setTimeout(() => child.kill("SIGKILL"), RUN_DEADLINE_MS);
  const result = await ended;
  clearTimeout(timer);
  return result;
}
