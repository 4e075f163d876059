/**
 * How deep a policy has to be for its decode step to take a given time on this machine. Latencies are in milliseconds, so the work
 * beside them has to be as well: with as many layers everywhere, what the comparison of schedules says would depend on how quick
 * the machine is (ADR 38).
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { calibrate } from "./calibration.ts";
import { deepenPolicy } from "./deep-policy.ts";
import { LAWS } from "./laws.ts";
import { commonSettings, lawSettings, MODES, modeSettings, RATIO } from "./modes.ts";
import { runProduct, UNMEASURED } from "./real-run.ts";

const FIRST_LAYERS = 24;
const [LEAST, MOST] = [8, 96];
const PILOTS = 3;
const STEPS = UNMEASURED + 4;
const SEED = 0;

export interface Pilot {
  readonly layers: number;
  readonly decodeMs: number;
}

/**
 * Layers with which a decode step takes `targetMs` in the mode `async-shared` under law A. Found by short runs, each as deep as
 * those before it say.
 */
export async function depthFor(
  targetMs: number,
  policy: { readonly command: readonly string[]; readonly plain: string },
  onPilot: (pilot: Pilot) => void,
): Promise<number> {
  const pilots: Pilot[] = [];
  while (pilots.length < PILOTS) {
    const layers = nextDepth(pilots, targetMs);
    const pilot = { layers, decodeMs: await decodeMs(layers, policy) };
    onPilot(pilot);
    pilots.push(pilot);
  }
  return nextDepth(pilots, targetMs);
}

/**
 * From the quickest layer of the pilots that are about as deep as the last one: what else a machine does only adds time. A layer's time
 * depends on which cache the weights fit, so shallower pilots do not count.
 */
export function nextDepth(pilots: readonly Pilot[], targetMs: number): number {
  const last = pilots.at(-1);
  if (last === undefined) return FIRST_LAYERS;
  const alike = pilots.filter(({ layers }) => Math.abs(layers - last.layers) <= last.layers / 3);
  const perLayer = Math.min(...alike.map(({ layers, decodeMs }) => decodeMs / layers));
  return Math.min(MOST, Math.max(LEAST, Math.round(targetMs / perLayer)));
}

async function decodeMs(
  layers: number,
  { command, plain }: { readonly command: readonly string[]; readonly plain: string },
): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "ale-bench-depth-"));
  try {
    const policy = join(folder, "policy");
    await deepenPolicy(plain, policy, layers);
    const shared = MODES.find(({ name }) => name === "async-shared");
    if (shared === undefined) throw new Error("there is no mode async-shared");
    const settings = [...commonSettings(policy, STEPS, SEED), ...lawSettings("A"), ...modeSettings(shared, RATIO)];
    const { decode, slots } = (await calibrate(await runProduct(command, settings, folder), LAWS.A)).costs;
    return decode.base + decode.perRow * slots;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
