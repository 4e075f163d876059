import { expect, test } from "bun:test";
import { ExperimentSchema } from "../config/experiment.ts";
import { planEngines } from "./engine-plan.ts";

const plan = (engine: Readonly<Record<string, unknown>>) => planEngines(ExperimentSchema.parse({ engine }));

test("threads that are not set are shared out among the engines on the processor", () => {
  const [first, gpu, last] = plan({ devices: ["cpu", "webgpu", "cpu"], threads: 3 });
  expect([first?.threads, gpu?.threads, last?.threads]).toEqual([3, 3, 3]);
  expect(plan({ devices: ["cpu", "cpu"] })[0]?.threads).toBe(plan({ devices: ["cpu", "webgpu", "cpu"] })[0]?.threads);
});

test("matrices in bfloat16 are for GPUs alone", () => {
  expect(plan({ devices: ["webgpu"], storage: "bfloat16" })).toHaveLength(1);
  expect(() => plan({ devices: ["webgpu", "cpu"], storage: "bfloat16" })).toThrow(
    'engine.storage is "bfloat16", which GPUs alone have, but engine.devices is ["webgpu","cpu"]',
  );
  expect(() => plan({ devices: ["webgpu"], storage: "bfloat16", fallback: "cpu" })).toThrow('engine.fallback is "cpu"');
});
