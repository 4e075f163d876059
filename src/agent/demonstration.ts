/** Records given commands as a transcript, for supervised training and for proofs that a task can be solved. */

import type { Sandbox } from "../core/ports.ts";
import type { Task, TokenRecord } from "../core/types.ts";
import type { TranscriptFormat } from "./format.ts";
import type { AgentLimits } from "./loop.ts";
import { TranscriptBuilder } from "./transcript.ts";

/** Commands and what they showed. */
export interface RecordedTurn {
  readonly command: string;
  readonly observation: string;
}

/** A recorded turn, and how its command ended; `null` when it did not end by itself. */
export interface ExecutedTurn extends RecordedTurn {
  readonly exitCode: number | null;
}

/** Runs the commands, one per turn, in a sandbox that already holds the task's files. */
export async function runDemonstration(
  task: Task,
  commands: readonly string[],
  sandbox: Sandbox,
  format: TranscriptFormat,
  limits: AgentLimits,
  signal?: AbortSignal,
): Promise<ExecutedTurn[]> {
  const turns: ExecutedTurn[] = [];
  for (const command of commands) {
    const result = await sandbox.run(command, {
      timeoutMs: (limits.commandSeconds ?? task.timeouts.command) * 1000,
      maxOutputBytes: limits.maxObservationChars * 8,
      ...(signal === undefined ? {} : { signal }),
    });
    const observation = format.renderResult(result, limits.maxObservationChars);
    turns.push({ command, observation, exitCode: result.exitCode });
  }
  return turns;
}

/** The transcript of recorded turns, ended by the policy saying that it is done; mask 1 on what a policy would have written. */
export function encodeDemonstration(
  instruction: string,
  turns: readonly RecordedTurn[],
  format: TranscriptFormat,
): TokenRecord {
  const transcript = new TranscriptBuilder();
  const speak = (ids: Int32Array, turn: number) => {
    const zeros = new Float32Array(ids.length);
    const versions = new Int32Array(ids.length);
    transcript.addGeneration(
      { ids, logprobs: zeros, logprobsT1: zeros, versions, kvOldest: versions, stop: "stop" },
      turn,
    );
  };
  transcript.addContext(format.encodePrompt(instruction), 0);
  turns.forEach(({ command, observation }, turn) => {
    speak(format.writeCommand(command), turn);
    transcript.addContext(format.encodeObservation(observation), 0);
  });
  speak(format.writeDone(), turns.length);
  return transcript.build();
}
