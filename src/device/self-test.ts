/**
 * A device's proof that it computes right: a forward pass, a gradient and decode steps of a small model, compared with
 * float64 on the processor. A GPU's runs in a process of its own, which its driver may take down.
 */

import { type Device, deviceName, parseDevice } from "../core/device.ts";
import { AleError, deadline, errorMessage } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";
import { ARCHITECTURES, type DecoderConfig } from "../models/config.ts";
import { DecoderReference } from "../models/decoder-reference.ts";
import { DeviceParameters } from "../models/device-parameters.ts";
import { ParameterStore } from "../models/parameter-store.ts";
import { parameterLayout, parameterView } from "../models/parameters.ts";
import { GenerationEngine } from "../policy/generation/engine.ts";
import { Provider } from "../runtime/provider.ts";
import { DeviceLearner } from "../trainer/device-learner.ts";
import { Learner } from "../trainer/learner.ts";
import { selfCommand } from "./self.ts";

/** Largest differences that count as rounding of float32, as in the tests of every profile. */
export const SELF_TEST_LIMITS = { forward: 1e-5, gradient: 1e-5, decode: 1e-5 } as const;

/** Differences from float64 on the processor. */
export interface SelfTestReport {
  readonly device: string;
  /** max |Δ log p| of a teacher-forced sequence. */
  readonly forward: number;
  /** rms(Δ) / rms of a parameter's gradient, the largest. */
  readonly gradient: number;
  /** max |Δ log p| of sampled tokens. */
  readonly decode: number;
  /** Compiling included. */
  readonly ms: number;
}

/** Whether every difference is within its limit. */
export function passes(report: SelfTestReport): boolean {
  return Object.entries(SELF_TEST_LIMITS).every(
    ([name, limit]) => report[name as keyof typeof SELF_TEST_LIMITS] <= limit,
  );
}

const CONFIG: DecoderConfig = {
  ...ARCHITECTURES.llama,
  experts: null,
  vocabularySize: 24,
  hiddenSize: 16,
  layers: 1,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  intermediateSize: 24,
  normEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  contextLength: 16,
};
/** Tokens that are given, and tokens that are sampled after them. */
const KNOWN = 8;
const SAMPLED = 4;

/** Runs the test on a device of this process. @throws AleError("engine") when the device cannot be used. */
export function runSelfTest(device: Device): SelfTestReport {
  const started = performance.now();
  const provider = device.kind === "cpu" ? undefined : Provider.open(device);
  const layout = parameterLayout(CONFIG);
  const store = ParameterStore.inMemory(layout);
  const rng = new Rng("self-test");
  for (const { name, kind, shape } of layout.entries) {
    const view = parameterView(layout, store.parameters(0), name);
    const spread = kind === "norm" ? 0.2 : (shape[1] ?? 1) ** -0.5;
    for (let i = 0; i < view.length; i++) view[i] = (kind === "norm" ? 1 : 0) + spread * rng.normal();
  }
  store.publish(0, 0);
  const parameters = provider && new DeviceParameters(provider, store);
  const learner =
    parameters === undefined
      ? new Learner(CONFIG, store, { threads: 1 })
      : new DeviceLearner(CONFIG, store, parameters);
  const generation = new GenerationEngine(CONFIG, store, {
    threads: 1,
    slots: 2,
    rows: 2,
    context: CONFIG.contextLength,
    device: parameters,
  });
  const reference = new DecoderReference(CONFIG, KNOWN + SAMPLED - 1);
  reference.parameters.set(store.parameters(0));
  try {
    const sequence = Int32Array.from({ length: KNOWN }, () => rng.int(0, CONFIG.vocabularySize - 1));
    return {
      device: deviceName(device),
      ...compare(reference, learner, generation, sequence),
      ms: performance.now() - started,
    };
  } finally {
    generation.dispose();
    for (const item of [learner, parameters, reference]) item?.release();
  }
}

function compare(
  reference: DecoderReference,
  learner: Learner | DeviceLearner,
  generation: GenerationEngine,
  sequence: Int32Array,
): Pick<SelfTestReport, "forward" | "gradient" | "decode"> {
  const weights = Float32Array.from(sequence, (_, t) => (t % 3) - 1.25);
  const [logprobs = new Float32Array()] = learner.backward([sequence], [weights], 0).logprobs;
  const { gradients } = learner;
  reference.run(sequence, weights);
  let gradient = 0;
  for (const { name } of reference.layout.entries) {
    const expected = parameterView(reference.layout, reference.gradients, name);
    const found = parameterView(reference.layout, gradients, name);
    let error = 0;
    let size = 0;
    for (const [i, value] of expected.entries()) {
      error += (value - (found[i] as number)) ** 2;
      size += value ** 2;
    }
    gradient = Math.max(gradient, Math.sqrt(error / size));
  }
  const forward = difference(logprobs.subarray(1), reference.logprobs);

  const decoded: number[] = [];
  let sampled: Float32Array = new Float32Array();
  generation.open(0, "self-test");
  const sampling = { temperature: 1, greedy: true, maxTokens: SAMPLED, stopIds: [] };
  generation.submit({ sequenceId: 0, context: sequence, sampling });
  generation.drain(new Set([0]), ({ generation: answer }) => {
    decoded.push(...answer.ids);
    sampled = answer.logprobsT1;
  });
  reference.run([...sequence, ...decoded], new Float32Array(KNOWN + SAMPLED));
  return { forward, gradient, decode: difference(sampled, reference.logprobs.subarray(KNOWN - 1)) };
}

/** max |a − b|, NaN if there is one. */
function difference(a: Float32Array, b: Float64Array): number {
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] as number))), 0);
}

/** Entry of the `self-test` role: tests the device of that name and prints the report as JSON. */
export async function runSelfTestRole(device: string): Promise<void> {
  try {
    const report = runSelfTest(parseDevice(device));
    await Bun.write(Bun.stdout, JSON.stringify({ report }));
  } catch (error) {
    const hint = error instanceof AleError ? error.hint : undefined;
    await Bun.write(Bun.stdout, JSON.stringify({ error: errorMessage(error), hint }));
  }
  process.exit(0);
}

/**
 * As `runSelfTest`, in a process of its own that has `ms` milliseconds.
 * @throws AleError("engine") with what the device said, or how the process ended.
 */
export async function selfTestProcess(device: Device, ms: number): Promise<SelfTestReport> {
  const name = deviceName(device);
  const child = Bun.spawn({
    cmd: selfCommand("self-test", [name]),
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    const output = await deadline(`the self-test of ${name}`, ms, new Response(child.stdout).text(), "engine");
    await child.exited;
    if (output === "") {
      const how = child.signalCode === null ? `exit code ${child.exitCode}` : `signal ${child.signalCode}`;
      throw new AleError("engine", `the self-test of ${name} ended with ${how}`, {
        hint: "the driver of the device crashes; update it",
      });
    }
    const answer = JSON.parse(output) as { report?: SelfTestReport; error?: string; hint?: string };
    if (answer.report !== undefined) return answer.report;
    throw new AleError("engine", answer.error ?? output, answer.hint === undefined ? {} : { hint: answer.hint });
  } finally {
    child.kill("SIGKILL");
  }
}
