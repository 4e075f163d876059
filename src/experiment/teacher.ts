/** Opens the teacher of an experiment: a model on this machine, in an engine of its own, or one behind an address. */

import { availableParallelism } from "node:os";
import { join } from "node:path";
import { isAddress, type TeacherServer } from "../config/distillation.ts";
import type { Experiment } from "../config/experiment.ts";
import { AleError } from "../core/errors.ts";
import type { EventHub } from "../core/events.ts";
import type { Tokenizer } from "../core/ports.ts";
import type { ScoreOptions, Teacher, TeacherScores } from "../core/teacher.ts";
import { EngineClient } from "../device/engine-client.ts";
import type { EngineOptions } from "../device/protocol.ts";
import { configFromHuggingFace } from "../models/config.ts";
import { RemoteTeacher } from "../policy/remote-logprobs.ts";
import { Limiter } from "../rollout/limiter.ts";
import { planEngines } from "./engine-plan.ts";
import { type PolicySource, policyFromFolder } from "./policy-source.ts";

/** Sequences of one request: few, so that an interrupt need not wait for long. */
const SEQUENCES_PER_REQUEST = 64;

/** Tokens per forward pass of a teacher that is served. */
const SERVED_TOKENS = 2048;

/** Where a teacher is. */
export interface TeacherPlace {
  readonly teacher: string;
  readonly server?: TeacherServer | undefined;
}

/** Where the parts of a run are that a teacher needs. */
export interface TeacherRun {
  readonly experiment: Experiment;
  readonly outDir: string;
  readonly hub: EventHub;
}

/**
 * @throws AleError("tokenizer") when the teacher's tokens are not the student's, AleError("config") when its context is
 * shorter than an episode may be.
 */
export async function openTeacher(
  { teacher, server }: TeacherPlace,
  student: PolicySource,
  { experiment, outDir, hub }: TeacherRun,
): Promise<Teacher> {
  if (isAddress(teacher) && server !== undefined) {
    const { timeout, concurrency, apiKeyEnv, ...rest } = server;
    const settings = { url: teacher, ...rest, apiKey: process.env[apiKeyEnv], timeoutMs: timeout * 1000 };
    return new RemoteTeacher(settings, new Limiter(concurrency));
  }
  const options = teacherOptions(teacher, student, experiment, outDir);
  const onRestart = (reason: string, restarts: number) =>
    hub.emit({ type: "engine.restarted", device: "teacher", reason, restarts });
  return new LocalTeacher(teacher, await EngineClient.start(options, onRestart, "teacher"));
}

/** The engine of a teacher on this machine. @throws AleError as `openTeacher`. */
export function teacherOptions(
  teacher: string,
  student: PolicySource,
  experiment: Experiment,
  outDir: string,
): EngineOptions {
  const source = policyFromFolder(teacher);
  assertSameTokens(source, student, teacher);
  const { rollout } = experiment;
  const { contextLength } = configFromHuggingFace(source.modelConfig, `${teacher}/config.json`);
  if (contextLength < rollout.maxEpisodeTokens) {
    throw new AleError("config", `the teacher ${teacher} reads ${contextLength} tokens, and episodes may have more`, {
      hint: `set rollout.maxEpisodeTokens, now ${rollout.maxEpisodeTokens}, to at most ${contextLength}`,
    });
  }
  return teacherEngine(source, experiment, outDir);
}

/** The engine of a teacher whose model was read. */
export function teacherEngine(teacher: PolicySource, experiment: Experiment, outDir: string): EngineOptions {
  const { rollout, trainer, deterministic } = experiment;
  return {
    ...scoringEngine(teacher),
    storeFile: join(outDir, "state", "teacher.bin"),
    threads: planEngines(experiment)[0]?.threads ?? 1,
    context: rollout.maxEpisodeTokens,
    microBatchTokens: trainer.microBatchTokens,
    ...{ executor: trainer.executor, packing: trainer.packing, deterministic },
  };
}

/** Folders of the teachers that an experiment has on this machine. */
export function localTeachers({ distillation, sft }: Experiment): readonly string[] {
  const named = [distillation?.teacher, ...sft.stages.map(({ teacher }) => teacher)];
  return [...new Set(named.filter((teacher) => teacher !== undefined && !isAddress(teacher)))] as string[];
}

/** What every engine that scores has in common. */
function scoringEngine({ modelConfig, weights, folder, lora }: PolicySource) {
  const work: EngineOptions["work"] = "score";
  return {
    modelConfig,
    weights,
    frozen: { folder: folder as string },
    ...(lora && { lora }),
    work,
    slots: 1,
    sequences: 1,
  };
}

/** A model that judges what others ask about (`ale serve --teacher`). */
export interface ServedTeacher extends AsyncDisposable {
  readonly teacher: Teacher;
  readonly tokenizer: Tokenizer;
  readonly vocabularySize: number;
  readonly contextLength: number;
}

/** @throws AleError("model" | "tokenizer") as `policyFromFolder`. */
export async function serveTeacher(folder: string, onRestart: (reason: string) => void): Promise<ServedTeacher> {
  const source = policyFromFolder(folder);
  const { vocabularySize, contextLength } = configFromHuggingFace(source.modelConfig, `${folder}/config.json`);
  const options = {
    ...scoringEngine(source),
    storeFile: "",
    threads: availableParallelism(),
    context: contextLength,
    microBatchTokens: SERVED_TOKENS,
    deterministic: false,
  };
  const engine = await EngineClient.start(options, onRestart, "teacher");
  const teacher = new LocalTeacher(folder, engine);
  const { tokenizer } = source;
  return { teacher, tokenizer, vocabularySize, contextLength, [Symbol.asyncDispose]: () => teacher.stop() };
}

/** A token id means the same to both, or there is nothing to compare. */
function assertSameTokens(teacher: PolicySource, student: PolicySource, teacherName: string): void {
  const studentName = student.folder ?? "the student";
  const [taught, own] = [teacher.tokenizer, student.tokenizer];
  const isSame = (id: number) => Buffer.compare(taught.bytes(id), own.bytes(id)) === 0;
  const size = Math.max(taught.vocabularySize, own.vocabularySize);
  for (let id = 0; id < size; id++) {
    if (isSame(id)) continue;
    const said = (bytes: Uint8Array) => JSON.stringify(new TextDecoder().decode(bytes));
    throw new AleError(
      "tokenizer",
      `token ${id} is ${said(taught.bytes(id))} for the teacher ${teacherName} and ${said(own.bytes(id))} for ${studentName}`,
      { hint: "a teacher needs the student's tokenizer: take a larger model of the same family" },
    );
  }
}

/** A model in an engine process. Requests hold the same sequences whenever the same are asked for, so the results are the same. */
class LocalTeacher implements Teacher {
  readonly name: string;
  readonly #engine: EngineClient;

  constructor(name: string, engine: EngineClient) {
    this.name = name;
    this.#engine = engine;
  }

  async score(sequences: readonly Int32Array[], options: ScoreOptions, signal: AbortSignal): Promise<TeacherScores> {
    const parts: TeacherScores[] = [];
    for (let begin = 0; begin < sequences.length; begin += SEQUENCES_PER_REQUEST) {
      signal.throwIfAborted();
      parts.push(await this.#engine.score(sequences.slice(begin, begin + SEQUENCES_PER_REQUEST), options));
    }
    const logprobs = parts.flatMap((part) => part.logprobs);
    const tops = parts.flatMap(({ top }) => (top === undefined ? [] : [top]));
    if (options.top === 0) return { logprobs };
    return {
      logprobs,
      top: {
        count: tops[0]?.count ?? options.top,
        ids: tops.flatMap(({ ids }) => ids),
        logprobs: tops.flatMap((top) => top.logprobs),
      },
    };
  }

  stop(): Promise<void> {
    return this.#engine.stop();
  }
}
