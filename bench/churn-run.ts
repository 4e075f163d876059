/** Many sandbox lives side by side, and what is left of them. */

import type { Rng } from "../src/core/rng.ts";
import type { NativeSandboxProvider } from "../src/sandbox/supervisor.ts";
import { live, Tally, WARM_ENVIRONMENT } from "./churn-life.ts";
import { childrenOf, type Inventory, kernelMb, residentMb, takeInventory } from "./inventory.ts";

export interface ChurnOptions {
  readonly provider: NativeSandboxProvider;
  readonly stateDir: string;
  readonly count: number;
  readonly concurrency: number;
  readonly seed: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number) => void;
}

export interface Memory {
  /** Resident, of the launcher and of this process; of the machine's kernel and tmpfs: 10⁶ bytes. */
  readonly launcher: number;
  readonly control: number;
  readonly slab: number;
  readonly tmpfs: number;
}

export interface ChurnResult {
  readonly tally: Tally;
  readonly seconds: number;
  readonly before: Inventory;
  readonly after: Inventory;
  readonly memoryBefore: Memory;
  readonly memoryAfter: Memory;
}

const WARM = 4;
/** Lives before the first count: what is made once is there then. */
const WARM_UP = 40;
const SETTLE_MS = 20_000;

export async function churn(options: ChurnOptions): Promise<ChurnResult> {
  const { provider, count, seed } = options;
  const factory = childrenOf(provider.launcherPid);
  await runLives({ ...options, count: Math.min(WARM_UP, count), seed: `${seed}/warm-up` }, factory, new Tally());
  const before = await settle(options, ({ processes, cgroups }) => processes === factory.length && cgroups === 0);
  const memoryBefore = readMemory(provider);
  const tally = new Tally();
  const started = performance.now();
  await runLives(options, factory, tally);
  const seconds = (performance.now() - started) / 1000;
  const after = await settle(options, (now) => Bun.deepEquals(now, before));
  return { tally, seconds, before, after, memoryBefore, memoryAfter: readMemory(provider) };
}

/** @param spared what the launcher has besides sandboxes: the factory, from which all of them come. */
async function runLives(options: ChurnOptions, spared: readonly number[], tally: Tally): Promise<void> {
  const { provider, count, concurrency, seed, signal, onProgress } = options;
  provider.warm(WARM_ENVIRONMENT, WARM);
  let next = 0;
  const killSome = (rng: Rng) => killChild(provider.launcherPid, spared, rng);
  const worker = async () => {
    while (next < count) {
      signal?.throwIfAborted();
      const index = next++;
      await live(index, { provider, seed, killSome }, tally);
      onProgress?.(index + 1);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  provider.warm(WARM_ENVIRONMENT, 0);
}

/** Any sandbox's init. */
function killChild(launcher: number, spared: readonly number[], rng: Rng): boolean {
  const inits = childrenOf(launcher).filter((pid) => !spared.includes(pid));
  if (inits.length === 0) return false;
  try {
    process.kill(rng.pick(inits), "SIGKILL");
    return true;
  } catch {
    return false; // it ended meanwhile
  }
}

/** The kernel takes a moment to take things apart: counted again until it is as expected. */
async function settle({ provider, stateDir }: ChurnOptions, expected: (now: Inventory) => boolean): Promise<Inventory> {
  const end = performance.now() + SETTLE_MS;
  for (;;) {
    const now = takeInventory(provider, stateDir);
    if (expected(now) || performance.now() > end) return now;
    await Bun.sleep(100);
  }
}

function readMemory(provider: NativeSandboxProvider): Memory {
  Bun.gc(true);
  return { launcher: residentMb(provider.launcherPid), control: residentMb(process.pid), ...kernelMb() };
}
