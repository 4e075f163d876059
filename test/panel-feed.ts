/**
 * A scripted run for looking at the panel: `bun test/panel-feed.ts [panel|plain|json] [speed] [steps]`. It emits what a run
 * emits and does nothing else; Ctrl-C ends it as it ends a run.
 */

import { CommandLine } from "../src/cli/command-line.ts";
import { reportError } from "../src/cli/report-error.ts";
import { watch } from "../src/cli/watch.ts";
import { AleError } from "../src/core/errors.ts";
import type { EpisodePhase, EventHub } from "../src/core/events.ts";
import { Rng } from "../src/core/rng.ts";
import type { ViewMode } from "../src/tui/view.ts";

const EPISODES = 256;
const PHASES: readonly EpisodePhase[] = ["reset", "generate", "tool", "generate", "tool", "grade", "finished"];

class ScriptedRun {
  readonly #hub: EventHub;
  readonly #speed: number;
  readonly #rng = new Rng("panel-feed");

  constructor(hub: EventHub, speed: number) {
    this.#hub = hub;
    this.#speed = speed;
  }

  async run(steps: number, signal: AbortSignal): Promise<void> {
    this.#hub.emit({
      type: "run.started",
      runId: "shell-scripted",
      name: "shell",
      outDir: "runs/shell-scripted",
      seed: 1,
      algorithm: "grpo",
      isolation: "none: scripted",
      steps,
    });
    this.#hub.emit({ type: "service.listening", url: "http://127.0.0.1:4242" });
    await this.#evaluate(0);
    for (let step = 1; step <= steps && !signal.aborted; step++) {
      await this.#step(step);
      if (step % 20 === 0 || step === steps) await this.#evaluate(step);
    }
    this.#hub.emit({
      type: "run.finished",
      runId: "shell-scripted",
      status: signal.aborted ? "interrupted" : "finished",
    });
  }

  async #step(step: number): Promise<void> {
    this.#hub.emit({ type: "step.started", step, episodes: EPISODES });
    const positions = new Array<number>(EPISODES).fill(-1);
    while (positions.some((position) => position < PHASES.length - 1)) {
      await this.#pause(40);
      for (const [i, position] of positions.entries()) {
        if (position === PHASES.length - 1 || this.#rng.next() > 0.25) continue;
        positions[i] = position + 1;
        this.#advance(step, `${step}/${i}`, PHASES[position + 1] as EpisodePhase);
      }
    }
    await this.#pause(700);
    if (step === 3) this.#hub.emit({ type: "engine.restarted", device: "cpu:0", reason: "killed", restarts: 1 });
    if (step === 4) this.#hub.emit({ type: "log", level: "warn", message: "hostile \x1b[31m\x1b]0;title\x07text" });
    this.#hub.emit({ type: "step.finished", step, metrics: this.#metrics(step) });
  }

  #advance(step: number, episodeId: string, phase: EpisodePhase): void {
    this.#hub.emit({ type: "episode.phase", episodeId, phase });
    if (phase === "finished") this.#finish(step, episodeId);
  }

  #finish(step: number, episodeId: string): void {
    this.#hub.emit({
      type: "episode.finished",
      episodeId,
      step,
      family: "cfg",
      split: "train",
      reward: 1,
      stopReason: "done",
      turns: 2,
      tokens: 57,
      ms: 900,
    });
  }

  async #evaluate(step: number): Promise<void> {
    for (const greedy of [false, true]) {
      this.#hub.emit({ type: "evaluation.started", step, split: "heldout", greedy, episodes: 420 });
      await this.#pause(600);
      const rate = (greedy ? 0.5 : 0.42) + 0.48 * (1 - Math.exp(-step / 18));
      const interval = { low: rate - 0.04, high: Math.min(1, rate + 0.04) };
      this.#hub.emit({
        type: "evaluation.finished",
        ...{ step, split: "heldout", greedy, rate, n: 420, perFamily: {} },
        ...interval,
      });
    }
  }

  #metrics(step: number): Record<string, number> {
    return {
      "critic/rewards/mean": 0.42 + 0.5 * (1 - Math.exp(-step / 18)) + (this.#rng.next() - 0.5) * 0.06,
      "timing_s/gen": 1.9,
      "timing_s/update_actor": 0.72,
      "timing_s/step": 2.62,
      "timing_s/episodes/reset": 1.2,
      "timing_s/episodes/generate": 220.1,
      "timing_s/episodes/tool": 14.2,
      "timing_s/episodes/grade": 60.3,
      "perf/throughput": 5230,
      "perf/episodes_per_second": 97.7,
      "actor/lr": 3e-4,
      "actor/entropy": 0.112,
      "actor/grad_norm": 0.83,
      "rollout_corr/logprob_abs_diff_max": 1.2e-5,
    };
  }

  async #pause(ms: number): Promise<void> {
    await Bun.sleep(ms / this.#speed);
  }
}

const [mode = "panel", speed = "6", steps = "40"] = process.argv.slice(2);
const cli = new CommandLine(process);
cli.tolerateFailedWrites();
try {
  const options = {
    cli,
    mode: mode as ViewMode,
    stream: process.stdout,
    changed: ["trainer.steps=40"],
    parityLimit: 1e-4,
  };
  await watch(options, async (hub, { signal }) => {
    await new ScriptedRun(hub, Number(speed)).run(Number(steps), signal);
    if (signal.aborted)
      throw new AleError("interrupted", "run shell-scripted is saved", { hint: "ale resume shell-scripted" });
  });
} catch (error) {
  process.exitCode = reportError(error, cli, mode === "json");
}
