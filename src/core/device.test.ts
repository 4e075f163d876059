import { expect, test } from "bun:test";
import { type Device, deviceName, parseDevice } from "./device.ts";
import type { AleError } from "./errors.ts";

test("every device has one canonical name, which reads back as itself", () => {
  const devices: [string, Device, string][] = [
    ["cpu", { kind: "cpu", index: 0 }, "cpu"],
    ["webgpu", { kind: "webgpu", index: 0 }, "webgpu"],
    ["cuda", { kind: "cuda", index: 0 }, "cuda:0"],
    ["cuda:12", { kind: "cuda", index: 12 }, "cuda:12"],
  ];
  for (const [text, device, name] of devices) {
    expect(parseDevice(text)).toEqual(device);
    expect(deviceName(device)).toBe(name);
    expect(parseDevice(name)).toEqual(device);
  }
});

test.each(["", "gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:1000", "cpu:0", "webgpu:1", " cpu", "CUDA:0"])(
  "%p is not a device, and the error names those that are",
  (text) => {
    try {
      parseDevice(text);
      throw new Error("was accepted");
    } catch (error) {
      expect((error as AleError).code).toBe("config");
      expect((error as AleError).message).toBe(`"${text}" is not a device`);
      expect((error as AleError).hint).toContain('"cuda:1"');
    }
  },
);
