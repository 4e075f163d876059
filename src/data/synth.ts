/**
 * Makes a data set out of a folder with four agents (explore → build → review → trajectory), as the pipeline behind ROME does
 * (arXiv 2512.24873, section 3.1). After every task the folder holds all that is known, so it can be stopped at any time.
 */

import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { AleError } from "../core/errors.ts";
import type { Demonstration, SandboxFile, Task, Trajectory } from "../core/types.ts";
import { makeFolder } from "../export/files.ts";
import type { ChatUsage } from "../policy/chat-model.ts";
import { folderOf, writeTask } from "../tasks/write.ts";
import { readText, runJob } from "./agents.ts";
import { placeTask, writeAttempts, writeRejected } from "./data-set.ts";
import { countRejections, datedStep, emptySheet, readSheet, type SheetTask, writeSheet } from "./datasheet.ts";
import { readIdeas, type TaskIdea } from "./ideas.ts";
import { type Cast, type Made, type MakeParts, type MakeSettings, makeTask, REPOSITORY_FOLDER } from "./make-task.ts";
import { explorePrompt, IDEAS_FILE } from "./prompts/explore.ts";
import { attemptOf, isSolution, type Rejection } from "./records.ts";
import { hashFiles, type SourceFolder } from "./source-folder.ts";
import { openState, type SynthOutcome, type SynthState, saveState } from "./synth-state.ts";

export interface Budget {
  readonly requests?: number | undefined;
  /** Of prompts and answers. */
  readonly tokens?: number | undefined;
  readonly minutes?: number | undefined;
}

export interface SynthSettings extends Omit<MakeSettings, "source"> {
  readonly folder: string;
  readonly source: SourceFolder;
  /** Tasks wanted. */
  readonly count: number;
  /** Times that ideas are looked for, at most. */
  readonly rounds: number;
  /** Ideas that are worked on at once. */
  readonly concurrency: number;
  readonly budget: Budget;
}

export interface SynthParts extends Omit<MakeParts, "spend"> {
  readonly cast: Cast;
  /** What was asked of the models since this command began. */
  readonly usage: () => ChatUsage;
}

export interface SynthResult {
  readonly folder: string;
  readonly tasks: number;
  readonly rejected: number;
  readonly attempts: number;
  readonly solved: number;
  readonly usage: ChatUsage;
  /** `count`: as many as were wanted; `ideas`: none are left; `budget`: what may be spent is spent. */
  readonly end: "count" | "ideas" | "budget";
}

/** Nothing more may be spent. */
class BudgetSpent extends Error {}

const MAX_IDEAS_BYTES = 512 << 10;
const SHEET_STEP = "synth";

/** @throws AleError when a policy or the sandboxes failed; what was finished before is kept. */
export async function synthesize(settings: SynthSettings, parts: SynthParts): Promise<SynthResult> {
  makeFolder(settings.folder);
  return new Synthesis(settings, parts).run();
}

class Synthesis {
  readonly #settings: SynthSettings;
  readonly #parts: MakeParts;
  readonly #usage: () => ChatUsage;
  readonly #state: SynthState;
  readonly #before: ChatUsage;
  readonly #started = performance.now();
  readonly #make: MakeSettings;
  readonly #tasks: Map<string, SheetTask>;
  #saving: Promise<void> = Promise.resolve();

  constructor(settings: SynthSettings, { usage, ...parts }: SynthParts) {
    const { folder, source } = settings;
    const { agents, reviewer, solver } = parts.cast;
    const policies = { agents: agents.name, reviewer: reviewer.name, solver: solver.name };
    this.#settings = settings;
    this.#usage = usage;
    this.#state = openState(folder, { source: source.hash, policies }, readdirSync(folder).length === 0);
    this.#before = { ...this.#state.usage };
    this.#make = { ...settings, source: source.files };
    this.#parts = { ...parts, spend: () => this.#spend() };
    const known = (readSheet(folder)?.tasks ?? []).filter(({ name }) => this.#isAccepted(name));
    this.#tasks = new Map(known.map((task) => [task.name, task]));
  }

  async run(): Promise<SynthResult> {
    let end: SynthResult["end"] = "count";
    this.#removeUnfinished();
    try {
      while (this.#accepted < this.#settings.count) {
        const ideas = this.#openIdeas();
        if (ideas.length > 0) await this.#work(ideas);
        else if (this.#state.rounds < this.#settings.rounds) await this.#explore();
        else {
          end = "ideas";
          break;
        }
      }
    } catch (error) {
      if (!(error instanceof BudgetSpent)) throw error;
      end = "budget";
    } finally {
      await this.#save();
    }
    return this.#result(end);
  }

  get #accepted(): number {
    return Object.keys(this.#state.outcomes).filter((name) => this.#isAccepted(name)).length;
  }

  #isAccepted(name: string): boolean {
    return this.#state.outcomes[name]?.status === "accepted";
  }

  /** A command that was killed may have left a task that its state does not know of. */
  #removeUnfinished(): void {
    const { folder } = this.#settings;
    for (const { name } of this.#state.ideas) {
      if (!this.#isAccepted(name)) rmSync(join(folder, name), { recursive: true, force: true });
    }
  }

  #openIdeas(): TaskIdea[] {
    return this.#state.ideas.filter(({ name }) => this.#state.outcomes[name] === undefined);
  }

  /** As many ideas at once as may still be needed; what fails under one of them ends the work when all have ended. */
  async #work(ideas: readonly TaskIdea[]): Promise<void> {
    const { concurrency, count } = this.#settings;
    const batch = ideas.slice(0, Math.min(concurrency, count - this.#accepted));
    const ended = await Promise.allSettled(batch.map((idea) => this.#makeOne(idea)));
    const failed = ended.find((result) => result.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  async #makeOne(idea: TaskIdea): Promise<void> {
    const made = await makeTask(idea, this.#make, this.#parts);
    if (made.status === "accepted") await this.#keep(idea, made);
    this.#state.outcomes[idea.name] = outcomeOf(made);
    await this.#save();
    const { hub } = this.#parts;
    const { count } = this.#settings;
    hub.emit({
      type: "progress",
      stage: "making tasks",
      done: Math.min(this.#accepted, count),
      total: count,
      unit: "tasks",
    });
    if (made.status === "rejected") {
      this.#say(`${idea.name} was rejected (${made.stage}): ${made.reason}`);
    }
  }

  async #keep(idea: TaskIdea, { task, trajectories }: Extract<Made, { status: "accepted" }>): Promise<void> {
    const { folder } = this.#settings;
    const whole = { ...task, demonstrations: demonstrationsOf(trajectories) };
    const policy = this.#parts.cast.solver.name;
    const attempts = trajectories.map((trajectory) => attemptOf(idea.name, policy, trajectory));
    await writeAttempts(folder, idea.name, attempts);
    placeTask(folder, idea.name, (target) => writeTask(whole, target));
    const solved = attempts.filter(isSolution).length;
    this.#tasks.set(idea.name, {
      ...{ name: idea.name, title: idea.title, difficulty: idea.difficulty, hash: hashTask(whole) },
      passRates: attempts.length === 0 ? {} : { [policy]: { attempts: attempts.length, solved } },
    });
  }

  /** Has ideas looked for; those that are none are told, and remembered. */
  async #explore(): Promise<void> {
    this.#spend();
    const { count, source, workshop } = this.#settings;
    const { ideas, rounds } = this.#state;
    // Not every idea becomes a task.
    const wanted = Math.ceil((count - this.#accepted) * 1.5);
    this.#say(`looking for ${wanted} ideas`);
    const prompt = explorePrompt({ count: wanted, known: ideas.map(({ title }) => title) });
    const folders = { [REPOSITORY_FOLDER]: source.files, "/work/out": [] };
    const job = { key: `explore/${rounds}`, prompt, environment: workshop, folders };
    const { left, stopReason } = await runJob(this.#parts.cast.agents, job, this.#parts, (sandbox) =>
      readText(sandbox, IDEAS_FILE, MAX_IDEAS_BYTES),
    );
    this.#state.rounds++;
    try {
      if (left === undefined) throw new AleError("task", `the agent ended by ${stopReason} and left no ${IDEAS_FILE}`);
      const found = readIdeas(left, new Set(ideas.map(({ name }) => name)));
      this.#state.ideas.push(...found.ideas.slice(0, wanted * 2).map((idea) => ({ ...idea, files: [...idea.files] })));
      this.#state.refused.push(...found.refused);
    } catch (error) {
      if (!(error instanceof AleError) || error.code !== "task") throw error;
      this.#state.refused.push(error.message);
    }
    this.#say(`${this.#openIdeas().length} ideas to work on`);
    await this.#save();
  }

  #say(message: string): void {
    this.#parts.hub.emit({ type: "log", level: "info", message });
  }

  #spend(): void {
    const { requests, tokens, minutes } = this.#settings.budget;
    const usage = this.#usage();
    const isSpent =
      usage.requests >= (requests ?? Number.POSITIVE_INFINITY) ||
      usage.promptTokens + usage.answerTokens >= (tokens ?? Number.POSITIVE_INFINITY) ||
      performance.now() - this.#started >= (minutes ?? Number.POSITIVE_INFINITY) * 60_000;
    if (isSpent) throw new BudgetSpent();
  }

  #rejections(): Rejection[] {
    const ideas = this.#state.refused.map(
      (reason): Rejection => ({ kind: "idea", name: "", stage: "explore", reason }),
    );
    const tasks = this.#state.ideas.flatMap(({ name }): Rejection[] => {
      const outcome = this.#state.outcomes[name];
      return outcome?.status === "rejected"
        ? [{ kind: "task", name, stage: outcome.stage, reason: outcome.reason }]
        : [];
    });
    return [...ideas, ...tasks];
  }

  /** One after the other: ideas that are worked on at once end when they end. */
  #save(): Promise<void> {
    this.#saving = this.#saving.then(() => this.#write());
    return this.#saving;
  }

  /** Writes what follows from the state first, and the state last. */
  async #write(): Promise<void> {
    const { folder, source, suite, count, revisions, repeats, attempts } = this.#settings;
    const now = this.#usage();
    this.#state.usage = {
      requests: this.#before.requests + now.requests,
      promptTokens: this.#before.promptTokens + now.promptTokens,
      answerTokens: this.#before.answerTokens + now.answerTokens,
    };
    const rejected = this.#rejections();
    await writeRejected(folder, rejected);
    const { licence, commit, hash, name, files, skipped } = source;
    const { policies, usage } = this.#state;
    await writeSheet(folder, {
      ...emptySheet(suite),
      sources: [
        {
          name,
          hash,
          ...(licence && { licence }),
          ...(commit && { commit }),
          files: files.length,
          skipped: skipped.length,
        },
      ],
      steps: [
        datedStep({
          ...{ step: SHEET_STEP, kept: this.#tasks.size, dropped: rejected.length },
          settings: { ...policies, count, revisions, repeats, attempts, ...usage },
        }),
      ],
      rejections: countRejections(rejected),
      tasks: [...this.#tasks.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
      attempts: sum(this.#state, "attempts"),
    });
    await saveState(folder, this.#state);
  }

  #result(end: SynthResult["end"]): SynthResult {
    const rejected = this.#rejections().length;
    const { usage } = this.#state;
    const counts = { attempts: sum(this.#state, "attempts"), solved: sum(this.#state, "solved") };
    return { folder: this.#settings.folder, tasks: this.#accepted, rejected, ...counts, usage, end };
  }
}

function sum({ outcomes }: SynthState, key: "attempts" | "solved"): number {
  return Object.values(outcomes).reduce(
    (total, outcome) => total + (outcome.status === "accepted" ? outcome[key] : 0),
    0,
  );
}

function outcomeOf(made: Made): SynthOutcome {
  if (made.status === "rejected") return made;
  const solved = made.trajectories.filter(({ reward, stopReason }) => reward >= 1 && stopReason === "done").length;
  return { status: "accepted", builds: made.builds, attempts: made.trajectories.length, solved };
}

/** The shortest attempt that solved the task: what supervised stages imitate and resampling forks from. */
function demonstrationsOf(trajectories: readonly Trajectory[]): Demonstration[] {
  const [best] = trajectories
    .filter(({ reward, stopReason }) => reward >= 1 && stopReason === "done")
    .sort((a, b) => a.turns.length - b.turns.length || a.member - b.member);
  if (best === undefined) return [];
  const commands = best.turns.map(({ command }) => command).filter((command) => command !== "");
  return [{ kind: "expert", weight: 1, commands }];
}

/** Sha256 (hex) of the folder of a task. */
export function hashTask(task: Task): string {
  const files = [...folderOf(task)].map(([path, file]): SandboxFile => ({ path, ...file }));
  return hashFiles(files.sort((a, b) => (a.path < b.path ? -1 : 1)));
}
