/** How far making a data set has come, in one file: what is done is not done again. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { AleError, errorMessage } from "../core/errors.ts";
import { writeTextFile } from "../export/files.ts";

const STATE_FILE = "state.json";

const OutcomeSchema = z.discriminatedUnion("status", [
  z.object({
    status: z.literal("accepted"),
    /** Times it was built. */
    builds: z.number().int(),
    attempts: z.number().int(),
    solved: z.number().int(),
  }),
  z.object({ status: z.literal("rejected"), builds: z.number().int(), stage: z.string(), reason: z.string() }),
]);

const StateSchema = z.object({
  version: z.literal(1),
  /** Hash of the source's files. */
  source: z.string(),
  policies: z.object({ agents: z.string(), reviewer: z.string(), solver: z.string() }),
  /** Times that ideas were looked for. */
  rounds: z.number().int(),
  ideas: z.array(
    z.object({
      name: z.string().regex(/^[a-z0-9][a-z0-9-]*$/),
      title: z.string(),
      idea: z.string(),
      files: z.array(z.string()),
      difficulty: z.enum(["easy", "medium", "hard"]),
    }),
  ),
  /** Why some ideas were none. */
  refused: z.array(z.string()),
  outcomes: z.record(z.string(), OutcomeSchema),
  usage: z.object({ requests: z.number(), promptTokens: z.number(), answerTokens: z.number() }),
});

export type SynthState = z.infer<typeof StateSchema>;
export type SynthOutcome = z.infer<typeof OutcomeSchema>;

/**
 * The state in `folder`, or a new one.
 * @throws AleError("usage") when the folder belongs to another source, or is in use for something else
 */
export function openState(
  folder: string,
  fresh: Pick<SynthState, "source" | "policies">,
  isEmpty: boolean,
): SynthState {
  const path = join(folder, STATE_FILE);
  if (!existsSync(path)) {
    if (!isEmpty)
      throw new AleError("usage", `${folder} is not empty`, {
        hint: "name a new folder, or one that ale data synth began",
      });
    const usage = { requests: 0, promptTokens: 0, answerTokens: 0 };
    return { version: 1, ...fresh, rounds: 0, ideas: [], refused: [], outcomes: {}, usage };
  }
  const state = readState(path);
  if (state.source !== fresh.source) {
    throw new AleError("usage", `${folder} holds tasks made from other files`, {
      hint: "the source has changed since, or is another one: name a new folder",
    });
  }
  return { ...state, policies: fresh.policies };
}

function readState(path: string): SynthState {
  try {
    return StateSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    throw new AleError("usage", `${path} cannot be read: ${errorMessage(error).split("\n")[0]}`, {
      hint: "name a new folder",
      cause: error,
    });
  }
}

export async function saveState(folder: string, state: SynthState): Promise<void> {
  await writeTextFile(join(folder, STATE_FILE), `${JSON.stringify(state, undefined, 2)}\n`);
}
