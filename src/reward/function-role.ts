/** The process that runs a reward function: the user's own code, away from the run and its secrets. */

import { pathToFileURL } from "node:url";
import { AleError, errorMessage } from "../core/errors.ts";
import { dieWithParent } from "../runtime/process.ts";
import type { RewardEpisode } from "./shaping.ts";

export type ToFunction = { readonly id: number; readonly episode: RewardEpisode };

export type FromFunction =
  /** It was loaded, or why it was not. */
  | { readonly type: "ready"; readonly error?: string }
  | { readonly type: "value"; readonly id: number; readonly value: number }
  | { readonly type: "failed"; readonly id: number; readonly error: string };

/** Entry of the role: loads the file at `path`, and answers until the run is over. */
export async function runRewardFunction(path: string): Promise<void> {
  const send = process.send?.bind(process) as ((message: FromFunction) => void) | undefined;
  if (send === undefined) throw new AleError("usage", "a reward function is started by ale itself");
  dieWithParent();
  process.on("disconnect", () => process.exit(0));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  let reward: (episode: RewardEpisode) => unknown;
  try {
    const module: { readonly reward?: unknown } = await import(pathToFileURL(path).href);
    if (typeof module.reward !== "function") throw new Error("it exports no function reward");
    reward = module.reward as typeof reward;
  } catch (error) {
    send({ type: "ready", error: errorMessage(error) });
    return;
  }
  process.on("message", async ({ id, episode }: ToFunction) => {
    try {
      const value = await reward(episode);
      if (typeof value !== "number" || !Number.isFinite(value))
        throw new Error(`it returned ${describe(value)}, not a number`);
      send({ type: "value", id, value });
    } catch (error) {
      send({ type: "failed", id, error: errorMessage(error) });
    }
  });
  send({ type: "ready" });
}

function describe(value: unknown): string {
  return typeof value === "number" ? String(value) : typeof value;
}
