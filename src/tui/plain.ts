/** Progress as plain lines, for pipes and logs: one per step, evaluation and event worth knowing. */

import type { EmittedEvent, EvaluationSummary, EventOf } from "../core/events.ts";
import { formatCount, formatDuration, formatPercent, formatSmall, stalenessText } from "./format.ts";
import { type PanelState, remainingMs, splitName } from "./panel-state.ts";
import { sanitizeLine } from "./sanitize.ts";

/** Milliseconds between two lines about the same stage. */
const STAGE_INTERVAL = 10_000;

/** Makes lines of events. Keep one for the whole run: it remembers when a stage was last reported. */
export class PlainReporter {
  readonly #lastStageLine = new Map<string, number>();

  /** The line for an event that `state` has already taken in, or `undefined` where there is nothing to say. */
  line(state: PanelState, { event, at }: EmittedEvent): string | undefined {
    switch (event.type) {
      case "run.started":
        return startLine(event, state.changed);
      case "service.listening":
        return `dashboard ${sanitizeLine(event.url)}`;
      case "step.finished":
        return stepLine(state, event);
      case "evaluation.finished":
        return evaluationLine(event);
      case "progress":
        return this.#stageLine(event, at);
      case "engine.restarted":
        return `warning: engine ${sanitizeLine(event.device, 40)} was restarted (${event.restarts}×): ${sanitizeLine(event.reason, 200)}`;
      case "launcher.restarted":
        return `warning: sandboxes are lost (${event.restarts}×), a new launcher makes others: ${sanitizeLine(event.reason, 200)}`;
      case "run.finished":
        return `${event.status}${event.reason === undefined ? "" : `: ${sanitizeLine(event.reason)}`}`;
      case "log":
        return logLine(event);
      default:
        return undefined;
    }
  }

  #stageLine(event: EventOf<"progress">, at: number): string | undefined {
    const last = this.#lastStageLine.get(event.stage);
    const isLast = event.done >= event.total;
    if (last !== undefined && !isLast && at - last < STAGE_INTERVAL) return undefined;
    this.#lastStageLine.set(event.stage, at);
    const metrics = Object.entries(event.metrics ?? {})
      .slice(0, 6)
      .map(([name, value]) => `  ${sanitizeLine(name, 40)} ${Number(value.toPrecision(4))}`);
    return `${sanitizeLine(event.stage, 60)}: ${event.done}/${event.total} ${sanitizeLine(event.unit, 20)}${metrics.join("")}`;
  }
}

function startLine(event: EventOf<"run.started">, changed: readonly string[]): string {
  const resumed = event.resumedFrom === undefined ? "" : `, resumed after step ${event.resumedFrom}`;
  const settings = changed.length === 0 ? "" : `\nsettings ${sanitizeLine(changed.join("  "), 2000)}`;
  const head = `run ${sanitizeLine(event.runId, 80)}: ${sanitizeLine(event.algorithm, 40)}, seed ${event.seed}`;
  return `${head}, ${event.steps} steps${resumed}, isolation ${sanitizeLine(event.isolation, 80)}\nresults ${sanitizeLine(event.outDir)}${settings}`;
}

function stepLine(state: PanelState, { step, metrics }: EventOf<"step.finished">): string | undefined {
  if (step === 0) return undefined; // Nothing is trained yet, and its evaluations have been told.
  const total = String(state.run?.steps ?? step);
  const parts = [`step ${String(step).padStart(total.length)}/${total}`];
  const add = (name: string, format: (value: number) => string) => {
    const value = metrics[name];
    if (value !== undefined) parts.push(format(value));
  };
  add("critic/rewards/mean", (value) => `reward ${value.toFixed(3)}`);
  add("sft/loss", (value) => `loss ${value.toFixed(4)}`);
  add("timing_s/step", (value) => `${value.toFixed(2)} s`);
  add("perf/throughput", (value) => `${formatCount(Math.round(value))} tokens/s`);
  add("perf/episodes_per_second", (value) => `${formatCount(value)} episodes/s`);
  const staleness = stalenessText(metrics);
  if (staleness !== undefined) parts.push(staleness);
  add("actor/entropy", (value) => `entropy ${value.toFixed(3)}`);
  add("rollout_corr/logprob_abs_diff_max", (value) => `max |Δlogp| ${formatSmall(value)}`);
  const remaining = remainingMs(state);
  if (remaining !== undefined && step < (state.run?.steps ?? 0)) parts.push(`${formatDuration(remaining)} left`);
  return parts.join("  ");
}

function evaluationLine(evaluation: EvaluationSummary): string {
  const { step, split, greedy, rate, low, high, n } = evaluation;
  const interval = `[${(low * 100).toFixed(1)}, ${(high * 100).toFixed(1)}]`;
  return `evaluation at step ${step}  ${splitName(split)} ${greedy ? "greedy" : "sampled"}  ${formatPercent(rate)} ${interval}  n ${n}`;
}

function logLine(event: EventOf<"log">): string | undefined {
  if (event.level === "debug") return undefined;
  const prefix = event.level === "info" ? "" : event.level === "warn" ? "warning: " : "error: ";
  return `${prefix}${sanitizeLine(event.message, 2000)}`;
}
