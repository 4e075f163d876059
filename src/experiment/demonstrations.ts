/** Records demonstrations in real sandboxes: expert solutions, and where the recipe says so typical mistakes. */

import { type ExecutedTurn, encodeDemonstration, runDemonstration } from "../agent/demonstration.ts";
import type { TranscriptFormat } from "../agent/format.ts";
import type { AgentLimits } from "../agent/loop.ts";
import type { EventHub } from "../core/events.ts";
import type { SandboxProvider } from "../core/ports.ts";
import { Rng } from "../core/rng.ts";
import type { Demonstration, Task } from "../core/types.ts";
import { Limiter } from "../rollout/limiter.ts";
import { trainBpe } from "../tokens/bpe-trainer.ts";
import { BpeTokenizer } from "../tokens/tokenizer.ts";
import { maskTurns, type SupervisedRecord, type TurnMaskSettings } from "../trainer/turn-masks.ts";

/** A task with the commands its demonstrator will run. */
export interface DemonstrationPlan {
  readonly task: Task;
  readonly demonstration: Demonstration;
}

export interface RecordedDemonstration {
  readonly plan: DemonstrationPlan;
  readonly turns: readonly ExecutedTurn[];
}

/** Chooses for each task an expert solution, or with probability `mistakes` a typical mistake. */
export function planDemonstrations(tasks: readonly Task[], mistakes: number, key: string): DemonstrationPlan[] {
  const rng = new Rng(key);
  return tasks.map((task) => {
    const wanted = rng.next() < mistakes ? "mistake" : "expert";
    const options = task.demonstrations.filter(({ kind }) => kind === wanted);
    const chosen = options.length > 0 ? options : task.demonstrations;
    return { task, demonstration: pickWeighted(chosen, rng) };
  });
}

function pickWeighted(options: readonly Demonstration[], rng: Rng): Demonstration {
  const total = options.reduce((sum, { weight }) => sum + weight, 0);
  let rest = rng.next() * total;
  for (const option of options) {
    rest -= option.weight;
    if (rest < 0) return option;
  }
  return options.at(-1) as Demonstration;
}

/** Learns the tokenizer on everything a transcript of these plans can contain before any command has run. */
export function learnTokenizer(plans: readonly DemonstrationPlan[], vocabularySize: number) {
  const decoder = new TextDecoder();
  const texts = plans.flatMap(({ task, demonstration }) => [
    task.instruction,
    ...demonstration.commands,
    ...task.files.map((file) => decoder.decode(file.content)),
  ]);
  const json = trainBpe(texts, vocabularySize);
  return { tokenizer: new BpeTokenizer(json, "the learned tokenizer"), text: `${JSON.stringify(json)}\n` };
}

/** Runs every plan in a sandbox of its own; the result is in the order of `plans`. */
export async function recordDemonstrations(
  plans: readonly DemonstrationPlan[],
  provider: SandboxProvider,
  format: TranscriptFormat,
  limits: AgentLimits,
  concurrency: number,
  hub: EventHub,
  signal: AbortSignal,
): Promise<RecordedDemonstration[]> {
  const limiter = new Limiter(concurrency);
  // The first failure ends the recording: the others would fail for the same reason, one by one.
  const failure = new AbortController();
  const stop = AbortSignal.any([signal, failure.signal]);
  let done = 0;
  const record = async (plan: DemonstrationPlan): Promise<RecordedDemonstration> => {
    stop.throwIfAborted();
    await using sandbox = await provider.create(plan.task.environment, stop);
    await sandbox.upload(plan.task.environment.workdir, plan.task.files);
    const turns = await runDemonstration(plan.task, plan.demonstration.commands, sandbox, format, limits, stop);
    done++;
    if (done % 100 === 0 || done === plans.length) {
      hub.emit({
        type: "progress",
        stage: "recording demonstrations",
        done,
        total: plans.length,
        unit: "demonstrations",
      });
    }
    return { plan, turns };
  };
  const work = plans.map((plan) =>
    limiter
      .run(() => record(plan))
      .catch((error) => {
        failure.abort(error);
        throw error;
      }),
  );
  const results = await Promise.allSettled(work);
  signal.throwIfAborted();
  failure.signal.throwIfAborted();
  return results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
}

/** Demonstrations as training sequences, without what `masks` leave out. */
export function encodeDemonstrations(
  recorded: readonly RecordedDemonstration[],
  format: TranscriptFormat,
  masks: TurnMaskSettings,
): SupervisedRecord[] {
  return recorded.map(({ plan, turns }) => {
    const tokens = encodeDemonstration(plan.task.instruction, turns, format);
    return maskTurns(
      tokens,
      turns.map((turn, index) => ({ index, ...turn })),
      masks,
    );
  });
}
