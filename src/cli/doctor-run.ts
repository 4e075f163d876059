/** `ale doctor --run`: what a running run waits for. The process that works on it is asked, through its own service. */

import { runServiceFile } from "../config/paths.ts";
import { AleError, errorMessage } from "../core/errors.ts";
import { groupWaits, type Wait, type WaitGroup } from "../core/waits.ts";
import type { RunRecord } from "../store/records.ts";
import { formatDuration } from "../tui/format.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { formatTable } from "../tui/table.ts";
import type { CommandLine } from "./command-line.ts";
import { findRun, readStore, storePathOf } from "./stored-runs.ts";

export interface DoctorRunFlags {
  readonly run: string;
  readonly store?: string;
  readonly json?: boolean;
}

/** How long the run's process may take to answer before it counts as stuck itself. */
const ANSWER_MS = 10_000;

export async function examineRun(cli: CommandLine, flags: DoctorRunFlags): Promise<void> {
  const path = storePathOf(cli, flags.store);
  const run = await findRun(path, flags.run);
  const pid = await readStore(path, (store) => store.findProcess(run.id));
  if (pid === undefined) {
    throw new AleError("usage", `run ${run.id} is ${run.status}: no process works on it`, {
      hint: run.status === "finished" ? "ale runs ls names those that run" : `go on with it: ale resume ${run.id}`,
    });
  }
  const waiting = await askForWaits(run, pid);
  if (flags.json) {
    cli.printJson({ run: run.id, pid, at: Date.now(), waiting });
    return;
  }
  cli.print(`${sanitizeLine(run.id, 100)}, process ${pid}: ${waiting.length} waits`);
  if (waiting.length > 0) cli.print(waitTable(cli, run.id, groupWaits(waiting)));
}

async function askForWaits(run: RunRecord, pid: number): Promise<readonly Wait[]> {
  const url = await serviceOf(run, pid);
  const address = `${url}/v1/runs/${encodeURIComponent(run.id)}/waiting`;
  try {
    const response = await fetch(address, { signal: AbortSignal.timeout(ANSWER_MS) });
    const body = (await response.json()) as { waiting?: readonly Wait[]; error?: { message: string } };
    if (body.waiting === undefined) throw new Error(body.error?.message ?? `status ${response.status}`);
    return body.waiting;
  } catch (cause) {
    const late = cause instanceof Error && cause.name === "TimeoutError";
    const what = late ? `did not answer within ${ANSWER_MS / 1000} s: it is busy or stopped` : errorMessage(cause);
    throw new AleError("engine", `process ${pid} of run ${run.id} at ${url}: ${what}`, {
      hint: `look at it with: cat /proc/${pid}/status; to end it and go on: kill -9 ${pid} && ale resume ${run.id}`,
      cause,
    });
  }
}

/** Address of the run's service; the file that names it may be left from a process that was killed. */
async function serviceOf(run: RunRecord, pid: number): Promise<string> {
  const file = Bun.file(runServiceFile(run.outDir));
  const service = (await file.json().catch(() => undefined)) as { pid: number; url: string } | undefined;
  if (service?.pid === pid) return service.url;
  throw new AleError("usage", `run ${run.id} was started without its service, so it cannot be asked`, {
    hint: `leave out --no-serve; its sandboxes and engines are among the children of process ${pid}`,
  });
}

function waitTable(cli: CommandLine, runId: string, groups: readonly WaitGroup[]): string {
  const now = Date.now();
  // Episodes' ids begin with their run's.
  const short = (who: string) => who.replace(`${runId}/`, "");
  return formatTable(
    groups,
    [
      { title: "who waits", value: ({ who, count }) => `${short(who)}${count === 1 ? "" : ` and ${count - 1} more`}` },
      { title: "for what", value: ({ forWhat }) => forWhat },
      { title: "since", value: ({ since }) => formatDuration(now - since), align: "right" },
      {
        title: "at most",
        value: ({ deadline }) => (deadline === null ? "" : formatDuration(Math.max(0, deadline - now))),
        align: "right",
      },
    ],
    cli.paint,
  );
}
