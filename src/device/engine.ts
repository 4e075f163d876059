/**
 * The engine process: one per device. It owns ONNX Runtime, the parameter store, generation and training, and works in
 * micro-operations: after each prefill, decode step, micro-batch or part of an optimizer step it looks at its messages and
 * decides anew whether generation or training goes next (docs/adr/0014).
 */

import { AleError, errorMessage, isDiskFull } from "../core/errors.ts";
import type { EngineSpan } from "../core/timeline.ts";
import { zeroContextStats } from "../policy/generation/contexts.ts";
import type { GenerationEngine } from "../policy/generation/engine.ts";
import { dieWithParent, residentMemory } from "../runtime/process.ts";
import { EngineClock } from "./engine-clock.ts";
import { EngineCore, generates } from "./engine-core.ts";
import type { EngineCall, EngineCalls, EngineStats, FromEngine, ToEngine } from "./protocol.ts";
import { TrainingGate } from "./training-gate.ts";
import { DEFAULT_TRAIN_SHARE, WorkShare } from "./work-share.ts";

type Calls = Exclude<ToEngine, { type: "open" | "cancel" | "cut" | "close" | "abandon" }>;

/** What serving a call is in the timeline; the others are over at once, or before anybody asks. */
const SPANS: Partial<Record<EngineCall, EngineSpan>> = {
  publish: "publish",
  save: "save",
  probeParity: "probe",
  probedLogprobs: "probe",
  score: "probe",
};

/** Calls that use the learner: one at a time, and the next waits until it is over. */
const EXCLUSIVE: ReadonlySet<EngineCall> = new Set(["update", "probeParity", "probedLogprobs"]);

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
  /** Lets the update that is under way go on, one micro-operation at a time. */
  readonly #training = new TrainingGate(() => this.#wake?.());
  #share = new WorkShare(DEFAULT_TRAIN_SHARE);
  #core: EngineCore | undefined;
  #updating = false;
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
          generates(this.#loaded().generation).submit({ ...message.body, sequenceId: message.body.sequence });
        });
        break;
      case "open":
        this.#open(message.sequence, message.noiseKey);
        break;
      case "cancel":
        this.#cancel(message.sequence);
        break;
      case "cut":
        this.#core?.generation?.cut(message.sequence, message.count);
        break;
      case "close":
        this.#cancel(message.sequence);
        if (!this.#refused.delete(message.sequence)) this.#core?.generation?.close(message.sequence);
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
      const call = this.#nextCall();
      if (call?.type === "update") void this.#update(call);
      else if (call !== undefined) this.#serve(call);
      else await this.#work();
    }
  }

  /** The next request that can be served now: while an update is under way, those that leave the learner alone. */
  #nextCall(): Calls | undefined {
    const at = this.#calls.findIndex(({ type }) => !(this.#updating && EXCLUSIVE.has(type)));
    return at < 0 ? undefined : this.#calls.splice(at, 1)[0];
  }

  /** One micro-operation, or sleep until there is something to do. */
  async #work(): Promise<void> {
    const generation = this.#core?.generation;
    const work = this.#share.next({ generate: generation?.busy ?? false, train: this.#training.ready });
    if (work === undefined) {
      await this.#wait();
      return;
    }
    const began = this.#clock.enter(work);
    if (work === "train") await this.#training.go();
    else {
      const { span, tokens } = this.#generate(generates(generation));
      // Messages come in between two micro-operations.
      await new Promise((resolve) => setImmediate(resolve));
      this.#clock.leave(span, began, tokens);
    }
    this.#share.spent(work, performance.now() - began);
  }

  async #wait(): Promise<void> {
    const began = this.#clock.enter(this.#updating ? "sync" : "idle");
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
    this.#wake = undefined;
    if (this.#updating) this.#clock.leave("exchange", began);
  }

  /** An update goes on beside everything else; nothing of it happens outside of `#work`. */
  async #update(call: Extract<Calls, { type: "update" }>): Promise<void> {
    this.#updating = true;
    const pause = this.#training.pause();
    const began = this.#clock.enter("train");
    try {
      await pause;
      const body = await this.#loaded().update(call.body);
      this.#send({ type: "reply", id: call.id, body });
    } catch (error) {
      this.#fail(call.id, error);
    } finally {
      this.#clock.leave("update", began);
      this.#updating = false;
      this.#wake?.();
    }
  }

  /** One micro-operation of generation; what it was, and the tokens it computed. */
  #generate(generation: GenerationEngine): { readonly span: EngineSpan; readonly tokens: number } {
    const { stats } = generation;
    const prefilled = stats.prefillTokens;
    let sampled: readonly number[] = [];
    try {
      const step = generation.step();
      sampled = step.sampled;
      for (const sequence of sampled) this.#stream(generation, sequence);
      for (const { sequenceId, generation: body } of step.finished) {
        this.#streams.delete(sequenceId);
        const id = this.#generating.get(sequenceId);
        if (id === undefined) continue;
        this.#generating.delete(sequenceId);
        this.#send({ type: "reply", id, body });
      }
    } catch (error) {
      for (const [sequence, id] of this.#generating) {
        this.#fail(id, error);
        generation.close(sequence);
      }
      this.#generating.clear();
      this.#streams.clear();
    }
    if (sampled.length > 0) return { span: "decode", tokens: sampled.length };
    return { span: "prefill", tokens: stats.prefillTokens - prefilled };
  }

  /** Sends what a streamed answer has got; its last token comes with the reply. */
  #stream(generation: GenerationEngine, sequence: number): void {
    const sent = this.#streams.get(sequence);
    const id = this.#generating.get(sequence);
    if (sent === undefined || id === undefined) return;
    const token = generation.sampledToken(sequence, sent);
    if (token === undefined) return;
    this.#streams.set(sequence, sent + 1);
    this.#send({ type: "token", id, token: token.id, logprob: token.logprob });
  }

  /** A sequence that cannot be opened is told so when it asks for its first answer. */
  #open(sequence: number, noiseKey: string): void {
    try {
      generates(this.#loaded().generation).open(sequence, noiseKey);
    } catch (error) {
      this.#refused.set(sequence, error);
    }
  }

  #cancel(sequence: number): void {
    const id = this.#generating.get(sequence);
    if (id === undefined) return;
    this.#generating.delete(sequence);
    this.#streams.delete(sequence);
    this.#core?.generation?.cancel(sequence);
    this.#fail(id, new AleError("engine", "generation was cancelled"));
  }

  /** Serves a request that is over at once. */
  #serve(call: Calls): void {
    const span = SPANS[call.type];
    const began = span === undefined ? 0 : this.#clock.enter("other");
    this.#answer(call.id, () => this.#send({ type: "reply", id: call.id, body: this.#reply(call) }));
    if (span !== undefined) this.#clock.leave(span, began);
    // What it took to start is nobody's question.
    if (call.type === "start" && this.#core !== undefined) this.#stats(this.#core);
  }

  #reply(call: Calls): EngineCalls[EngineCall]["reply"] {
    switch (call.type) {
      case "start":
        if (call.body.timeline) this.#clock.recordSpans();
        this.#share = new WorkShare(call.body.trainShare ?? DEFAULT_TRAIN_SHARE);
        this.#core = EngineCore.open(call.body, { record: this.#clock.record, pause: this.#training.pause });
        return this.#core.info();
      case "publish":
        this.#loaded().publish(call.body.slot, call.body.version);
        return { version: call.body.version };
      case "settle":
        if (call.body.written !== undefined) this.#loaded().storeChanged(call.body.written);
        return this.#clock.total();
      case "save":
        this.#loaded().save(call.body.folder);
        return {};
      case "probeParity":
        return this.#loaded().probeParity(call.body);
      case "probedLogprobs":
        return this.#loaded().probedLogprobs(call.body.sequences);
      case "score":
        return this.#loaded().score(call.body);
      case "stats":
        return this.#stats(this.#loaded());
      case "stop":
        this.#stopped = true;
        this.#core?.dispose();
        return {};
      case "update":
      case "generate":
        throw new AleError("internal", `"${call.type}" is served in micro-operations`);
    }
  }

  #stats(core: EngineCore): EngineStats {
    const stats = core.generation?.stats;
    return {
      ...this.#clock.take({ sampledTokens: stats?.decodeRows ?? 0, contexts: stats ?? zeroContextStats() }),
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
    const code = error instanceof AleError ? error.code : isDiskFull(error) ? "storage_full" : "engine";
    const hint = error instanceof AleError && error.hint !== undefined ? { hint: error.hint } : {};
    this.#send({ type: "error", id, code, message: errorMessage(error), ...hint });
  }
}
