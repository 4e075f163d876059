/** The run that `bench load` measures: the executable where there is one, else this checkout. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { selfCommand } from "../src/device/self.ts";

export interface LoadShape {
  readonly concurrency: number;
  readonly groups: number;
  readonly groupSize: number;
  readonly steps: number;
}

export interface LoadedRun extends AsyncDisposable {
  readonly url: string;
  readonly runId: string;
  /** Process id of control. */
  readonly pid: number;
  /** Metrics of each step as it is committed, until the run ends. @throws when the run fails without having been stopped. */
  steps(): AsyncGenerator<Readonly<Record<string, number>>>;
  /** Ends the run at once. */
  stop(): void;
}

const REPOSITORY = join(import.meta.dir, "..");
const EXECUTABLE = join(REPOSITORY, "dist/ale");

type Event = Readonly<Record<string, unknown>> & { readonly type: string };

/** Starts a run in `folder` and waits until its service listens. */
export async function startAle(folder: string, shape: LoadShape): Promise<LoadedRun> {
  const command = existsSync(EXECUTABLE) ? [EXECUTABLE] : selfCommand("engine").slice(0, -1);
  const child = Bun.spawn(
    [...command, "run", "experiments/shell.toml", "--out", join(folder, "run"), ...flags(shape)],
    {
      cwd: REPOSITORY,
      env: { ...process.env, ALE_HOME: join(folder, "home") },
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  const events = eachEvent(child.stdout);
  let isStopped = false;
  let runId = "";
  for (;;) {
    const { value: event } = await events.next();
    if (event === undefined) throw new Error(`the run ended with ${await child.exited} before it had a service`);
    if (event.type === "run.started") runId = String(event.runId);
    if (event.type === "service.listening")
      return { url: String(event.url), runId, pid: child.pid, steps, stop, [Symbol.asyncDispose]: end };
  }

  async function* steps(): AsyncGenerator<Readonly<Record<string, number>>> {
    for await (const event of events) {
      if (event.type === "step.finished")
        yield { ...(event.metrics as Record<string, number>), step: Number(event.step) };
    }
    const code = await child.exited;
    if (code !== 0 && !isStopped) throw new Error(`the run ended with ${code}`);
  }

  function stop(): void {
    isStopped = true;
    child.kill("SIGTERM");
  }

  async function end(): Promise<void> {
    stop();
    await child.exited;
  }
}

function flags({ concurrency, groups, groupSize, steps }: LoadShape): string[] {
  const numbers = {
    "rollout.concurrency": concurrency,
    "rollout.groups": groups,
    "rollout.groupSize": groupSize,
    "trainer.steps": steps,
    // so that training has always as many episodes in flight as may be
    "async.ratio": 1,
    "sandbox.warm": 32,
    "service.port": 0,
    "evaluation.every": 0,
    "evaluation.dev": 0,
    "evaluation.heldout": 2,
  };
  return ["--json", ...Object.entries(numbers).flatMap(([key, value]) => [`--${key}`, `${value}`])];
}

async function* eachEvent(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<Event, undefined> {
  let text = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (text + chunk).split("\n");
    text = lines.pop() ?? "";
    for (const line of lines) yield JSON.parse(line);
  }
  return undefined;
}
