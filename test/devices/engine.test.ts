/** The engine process on WebGPU: training, generation, checkpoints, restarts, and what happens without a device. */

import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EngineClient } from "../../src/device/engine-client.ts";
import { EnginePool } from "../../src/device/engine-pool.ts";
import type { EngineOptions } from "../../src/device/protocol.ts";
import { configToHuggingFace } from "../../src/models/config.ts";
import type { SupervisedJob } from "../../src/trainer/update.ts";
import { tinyDecoder, webgpu } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "ale-device-"));
const engines: { stop(): Promise<void> }[] = [];
afterAll(async () => {
  await Promise.all(engines.map((engine) => engine.stop()));
  rmSync(folder, { recursive: true, force: true });
});

const OPTIONS: Omit<EngineOptions, "storeFile" | "sequences"> = {
  modelConfig: configToHuggingFace(tinyDecoder("llama", { layers: 1 })),
  weights: { kind: "random", seed: 3 },
  threads: 1,
  slots: 2,
  context: 32,
  microBatchTokens: 32,
  deterministic: false,
};
const SAMPLING = { temperature: 1, greedy: true, maxTokens: 5, stopIds: [] };
const CONTEXT = Int32Array.of(1, 7, 3);
const JOB: SupervisedJob = {
  kind: "supervised",
  sequences: [Int32Array.of(1, 7, 3, 9, 11, 9, 11, 9), Int32Array.of(2, 5, 9, 11, 9, 11)],
  weights: [8, 6].map((length) => new Float32Array(length).fill(1)),
  optimizer: { lr: 0.05, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 },
};

/** Without drivers there is no WebGPU device; for engines started meanwhile. */
async function withoutDrivers<T>(work: () => Promise<T>): Promise<T> {
  const before = process.env.VK_ICD_FILENAMES;
  process.env.VK_ICD_FILENAMES = "/nowhere.json";
  try {
    return await work();
  } finally {
    if (before === undefined) delete process.env.VK_ICD_FILENAMES;
    else process.env.VK_ICD_FILENAMES = before;
  }
}

async function start(name: string, options: Partial<EngineOptions>): Promise<EngineClient> {
  const engine = await EngineClient.start({ ...OPTIONS, storeFile: join(folder, name), sequences: 2, ...options });
  engines.push(engine);
  return engine;
}

async function answer(engine: EngineClient): Promise<number[]> {
  const session = await engine.open("noise");
  const { ids } = await session.generate(CONTEXT, SAMPLING);
  await session.close();
  return [...ids];
}

describe.skipIf(webgpu === undefined)("an engine on webgpu", () => {
  test("computes what one on cpu computes, and goes on after its process was killed", async () => {
    const here = await start("cpu", {});
    const there = await start("webgpu", { device: "webgpu" });
    expect(there.info.device).toBe("webgpu");
    expect(there.info.fallback).toBeUndefined();
    for (const version of [1, 2, 3]) {
      const [cpu, gpu] = await Promise.all([here, there].map((engine) => engine.update(JOB, 0)));
      expect(Math.abs((gpu?.loss as number) - (cpu?.loss as number))).toBeLessThan(1e-3);
      await here.publish((cpu as { slot: 0 | 1 | 2 }).slot, version);
      // what was computed is whole for whoever publishes it
      if (version === 2) process.kill(await there.pid(), "SIGKILL");
      await there.publish((gpu as { slot: 0 | 1 | 2 }).slot, version);
    }
    const expected = await answer(here);
    expect(await answer(there)).toEqual(expected);
    process.kill(await there.pid(), "SIGKILL");
    while (there.restarts === 1) await Bun.sleep(10);
    await there.ready();
    expect(there.info).toMatchObject({ version: 3, optimizerStep: 3, device: "webgpu" });
    expect(await answer(there)).toEqual(expected);
    await there.save(join(folder, "checkpoint"));
    const loaded = await start("loaded", {
      weights: { kind: "checkpoint", folder: join(folder, "checkpoint"), version: 3 },
    });
    expect(await answer(loaded)).toEqual(expected);
  }, 110_000);

  test("trains together with one on cpu", async () => {
    const run = async (devices: readonly string[]) => {
      const own = mkdtempSync(join(folder, "pool-"));
      const pool = await EnginePool.start({ engine: OPTIONS, devices, folder: own, sequences: 2 });
      engines.push(pool);
      let result = await pool.update(JOB, 1);
      result = await pool.update(JOB, 2);
      const { max } = await pool.probeParity(JOB.sequences);
      return { result, max };
    };
    const mixed = await run(["webgpu", "cpu"]);
    const plain = await run(["cpu"]);
    expect(mixed.max).toBeLessThan(1e-5);
    expect(Math.abs(mixed.result.loss - plain.result.loss)).toBeLessThan(1e-3);
    expect(mixed.result.gradNorm / plain.result.gradNorm).toBeCloseTo(1, 4);
  }, 110_000);

  test("with matrices in bfloat16: generates what it trains, and the masters outlive its process", async () => {
    const engine = await start("bfloat16", { device: "webgpu", storage: "bfloat16" });
    const { slot } = await engine.update(JOB, 0);
    await engine.publish(slot, 1);
    expect((await engine.probeParity(JOB.sequences)).max).toBeLessThan(1e-5);
    const expected = await answer(engine);
    process.kill(await engine.pid(), "SIGKILL");
    while (engine.restarts === 0) await Bun.sleep(10);
    await engine.ready();
    expect(engine.info).toMatchObject({ version: 1, optimizerStep: 1, device: "webgpu" });
    expect(await answer(engine)).toEqual(expected);
  }, 110_000);

  test("deterministic runs are refused", async () => {
    await expect(start("deterministic", { device: "webgpu", deterministic: true })).rejects.toThrow(
      'deterministic runs compute on cpu; engine.devices names "webgpu"',
    );
  });
});

describe("an engine whose device is not there", () => {
  test("does not start, and says why", async () => {
    const failed = withoutDrivers(() => start("none", { device: "webgpu" }));
    await expect(failed).rejects.toThrow(/Vulkan cannot be loaded|device "webgpu" cannot be used/);
  }, 60_000);

  test("computes on cpu where the experiment allows it, and says why", async () => {
    const engine = await withoutDrivers(() => start("fallback", { device: "webgpu", fallback: "cpu" }));
    expect(engine.info.device).toBe("cpu");
    expect(engine.info.fallback).toMatch(/Vulkan|webgpu/);
    expect(await answer(engine)).toHaveLength(SAMPLING.maxTokens);
  }, 60_000);

  test("cuda names what is missing", async () => {
    await expect(start("cuda", { device: "cuda:0" })).rejects.toThrow(/libonnxruntime_providers_cuda\.so|CUDA/);
  }, 60_000);
});
