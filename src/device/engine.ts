/**
 * The engine process: one per device. It owns ONNX Runtime, the parameter store, generation and training, and works in
 * micro-operations: after each prefill, decode step or update it looks at its messages again.
 */

import { AleError, errorMessage } from "../core/errors.ts";
import type { EngineSpan } from "../core/timeline.ts";
import { dieWithParent, residentMemory } from "../runtime/process.ts";
import { EngineClock } from "./engine-clock.ts";
import { EngineCore } from "./engine-core.ts";
import type { EngineCall, EngineCalls, EngineStats, FromEngine, ToEngine } from "./protocol.ts";

type Calls = Exclude<ToEngine, { type: "open" | "cancel" | "cut" | "close" | "abandon" }>;

/** What serving a call is in the timeline; the others are over at once, or before anybody asks. */
const SPANS: Partial<Record<EngineCall, EngineSpan>> = {
  update: "update",
  publish: "publish",
  save: "save",
  probeParity: "probe",
};

/** Entry of the `engine` role: serves requests until told to stop or until the control process is gone. */
export async function runEngine(): Promise<void> {
  if (process.send === undefined) throw new AleError("usage", "an engine is started by ale itself");
  dieWithParent();
  const loop = new EngineLoop((message) => process.send?.(message));
  process.on("message", (message: ToEngine) => loop.receive(message));
  process.on("disconnect", () => process.exit(0));
  // Signals often reach the whole process group; the control process decides when engines stop.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  await loop.run();
  process.exit(0);
}

export class EngineLoop {
  readonly #send: (message: FromEngine) => void;
  readonly #calls: Calls[] = [];
  /** Request id of the answer each sequence is waiting for. */
  readonly #generating = new Map<number, number>();
  /** Tokens sent so far of the answers that are streamed, by sequence. */
  readonly #streams = new Map<number, number>();
  readonly #refused = new Map<number, unknown>();
  readonly #clock = new EngineClock();
  /** Resident memory before a model is loaded. */
  readonly #idleBytes = residentMemory().now;
  #core: EngineCore | undefined;
  #stopped = false;
  #wake: (() => void) | undefined;

  constructor(send: (message: FromEngine) => void) {
    this.#send = send;
  }

  receive(message: ToEngine): void {
    switch (message.type) {
      case "generate":
        this.#answer(message.id, () => {
          if (this.#refused.has(message.body.sequence)) throw this.#refused.get(message.body.sequence);
          this.#generating.set(message.body.sequence, message.id);
          if (message.body.stream) this.#streams.set(message.body.sequence, 0);
          this.#loaded().generation.submit({ ...message.body, sequenceId: message.body.sequence });
        });
        break;
      case "open":
        this.#open(message.sequence, message.noiseKey);
        break;
      case "cancel":
        this.#cancel(message.sequence);
        break;
      case "cut":
        this.#core?.generation.cut(message.sequence, message.count);
        break;
      case "close":
        this.#cancel(message.sequence);
        if (!this.#refused.delete(message.sequence)) this.#core?.generation.close(message.sequence);
        break;
      case "abandon":
        this.#core?.abandon(message.attempt);
        break;
      default:
        this.#calls.push(message);
    }
    this.#wake?.();
  }

  async run(): Promise<void> {
    while (!this.#stopped) {
      const call = this.#calls.shift();
      if (call !== undefined) {
        const began = performance.now();
        await this.#serve(call);
        const span = SPANS[call.type];
        if (span !== undefined) this.#clock.count(span, began);
        // what it took to start is nobody's question
        if (call.type === "start" && this.#core !== undefined) this.#stats(this.#core);
        continue;
      }
      const core = this.#core;
      if (core !== undefined && this.#generate(core)) {
        // let messages in between two micro-operations
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }

  /** One micro-operation of generation; false when there is nothing to do. */
  #generate(core: EngineCore): boolean {
    const began = performance.now();
    const { stats } = core.generation;
    const prefilled = stats.prefillTokens;
    let sampled: readonly number[] = [];
    try {
      const step = core.generation.step();
      const { finished, worked } = step;
      sampled = step.sampled;
      if (!worked) return false;
      for (const sequence of sampled) this.#stream(core, sequence);
      for (const { sequenceId, generation } of finished) {
        this.#streams.delete(sequenceId);
        const id = this.#generating.get(sequenceId);
        if (id === undefined) continue;
        this.#generating.delete(sequenceId);
        this.#send({ type: "reply", id, body: generation });
      }
    } catch (error) {
      for (const [sequence, id] of this.#generating) {
        this.#fail(id, error);
        core.generation.close(sequence);
      }
      this.#generating.clear();
      this.#streams.clear();
    }
    if (sampled.length > 0) this.#clock.count("decode", began, sampled.length);
    else this.#clock.count("prefill", began, stats.prefillTokens - prefilled);
    return true;
  }

  /** Sends what a streamed answer has got; its last token comes with the reply. */
  #stream(core: EngineCore, sequence: number): void {
    const sent = this.#streams.get(sequence);
    const id = this.#generating.get(sequence);
    if (sent === undefined || id === undefined) return;
    const token = core.generation.sampledToken(sequence, sent);
    if (token === undefined) return;
    this.#streams.set(sequence, sent + 1);
    this.#send({ type: "token", id, token: token.id, logprob: token.logprob });
  }

  /** A sequence that cannot be opened is told so when it asks for its first answer. */
  #open(sequence: number, noiseKey: string): void {
    try {
      this.#loaded().generation.open(sequence, noiseKey);
    } catch (error) {
      this.#refused.set(sequence, error);
    }
  }

  #cancel(sequence: number): void {
    const id = this.#generating.get(sequence);
    if (id === undefined) return;
    this.#generating.delete(sequence);
    this.#streams.delete(sequence);
    this.#core?.generation.cancel(sequence);
    this.#fail(id, new AleError("engine", "generation was cancelled"));
  }

  async #serve(call: Calls): Promise<void> {
    const reply = <K extends EngineCall>(body: EngineCalls[K]["reply"]) =>
      this.#send({ type: "reply", id: call.id, body });
    try {
      switch (call.type) {
        case "start":
          if (call.body.timeline) this.#clock.recordSpans();
          this.#core = EngineCore.open(call.body, this.#clock.record);
          reply<"start">(this.#core.info());
          break;
        case "update":
          reply<"update">(await this.#loaded().update(call.body.job, call.body.attempt));
          break;
        case "publish":
          this.#loaded().publish(call.body.slot, call.body.version);
          reply<"publish">({ version: call.body.version });
          break;
        case "save":
          this.#loaded().save(call.body.folder);
          reply<"save">({});
          break;
        case "probeParity":
          reply<"probeParity">(this.#loaded().probeParity(call.body.sequences));
          break;
        case "stats":
          reply<"stats">(this.#stats(this.#loaded()));
          break;
        case "stop":
          this.#stopped = true;
          this.#core?.dispose();
          reply<"stop">({});
          break;
        case "generate":
          throw new AleError("internal", "generate is served by the generation loop");
      }
    } catch (error) {
      this.#fail(call.id, error);
    }
  }

  #stats(core: EngineCore): EngineStats {
    const { stats } = core.generation;
    return {
      ...this.#clock.take({ syncMs: core.takeSyncMs(), sampledTokens: stats.decodeRows, contexts: stats }),
      peakBytes: residentMemory().peak - this.#idleBytes,
      predictedBytes: core.predictedBytes,
    };
  }

  #loaded(): EngineCore {
    if (this.#core === undefined) throw new AleError("engine", "the engine was not started");
    return this.#core;
  }

  #answer(id: number, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#fail(id, error);
    }
  }

  #fail(id: number, error: unknown): void {
    const code = error instanceof AleError ? error.code : "engine";
    const hint = error instanceof AleError && error.hint !== undefined ? { hint: error.hint } : {};
    this.#send({ type: "error", id, code, message: errorMessage(error), ...hint });
  }
}
