/** What the agent is told that makes a task out of an idea. */

import type { TaskIdea } from "../ideas.ts";

/** Where the task is looked for. */
export const TASK_FOLDER = "/work/out/task";

export interface BuildQuestion {
  readonly idea: TaskIdea;
  /** What was wrong with the files that lie in `TASK_FOLDER` already. */
  readonly problem?: string | undefined;
}

export function buildPrompt({ idea, problem }: BuildQuestion): string {
  const again =
    problem === undefined
      ? ""
      : `\nThe folder ${TASK_FOLDER} holds an earlier attempt. It was not accepted:\n${problem}\nCorrect it.\n`;
  return `Role: build

The folder /work/repo holds a software project. Make a task for an agent at a shell out of this idea:

Title: ${idea.title}
Idea: ${idea.idea}
Files: ${idea.files.join(", ") || "-"}
${again}
Write these files:
- ${TASK_FOLDER}/instruction.md: all the agent is told. Say exactly what has to be there in the end; name files and formats. Do not tell how.
- ${TASK_FOLDER}/environment/files/: the working directory, /work, as the agent finds it. Copy what it needs; the project is not there otherwise.
- ${TASK_FOLDER}/tests/test.sh: run by bash in /work after the agent is gone, with the other files of tests/ at /tests. It writes 1 to /logs/verifier/reward.txt when the task is done and 0 when it is not, whatever happens.
- ${TASK_FOLDER}/solution/solve.sh: run by bash in /work, with the other files of solution/ at /solution. It solves the task.

The tests check what the instruction asks for, all of it and nothing else; any right solution passes, and doing nothing fails. They are deterministic: no clock, no network, no random numbers, no order of files. Neither instruction nor environment give the solution away, and nothing of the tests is in the environment.

Try it here: with a copy of environment/files, does the solution lead to 1, and does doing nothing lead to 0? Then say that you are done.`;
}
