/** The first filter: faults of tasks and of attempts that can be seen without running anything. */

import type { SandboxFile, Task } from "../core/types.ts";
import type { Attempt } from "./records.ts";

export interface HeuristicLimits {
  /** Characters of an instruction. */
  readonly minInstruction: number;
  readonly maxInstruction: number;
  /** Of all of a task's files. */
  readonly maxFiles: number;
  readonly maxBytes: number;
  /** Of an attempt. */
  readonly maxTurns: number;
  /** Share of turns whose command failed. */
  readonly maxErrors: number;
  /** The same command so often in a row. */
  readonly maxRepeats: number;
  /** Share of turns without a command that could be read. */
  readonly maxMalformed: number;
}

export const HEURISTIC_LIMITS: HeuristicLimits = {
  minInstruction: 40,
  maxInstruction: 8000,
  maxFiles: 500,
  maxBytes: 16 << 20,
  maxTurns: 40,
  maxErrors: 0.5,
  maxRepeats: 3,
  maxMalformed: 0.25,
};

/** Places that belong to the verifier; whoever names them while solving has other things in mind. */
const FORBIDDEN = /(?:^|[^\w.-])(\/(?:tests|solution|logs\/verifier)\b|\/proc\/(?:1|self)\/(?:root|environ|mem)\b)/;
const CHANCE: readonly (readonly [pattern: RegExp, what: string])[] = [
  [/\$RANDOM\b|\$\{RANDOM\}|\/dev\/u?random\b|\bshuf\b/, "chance"],
  [/\b(?:curl|wget|ping|ssh|nc|telnet)\s/, "a network"],
  [/\$\(date\b|`date\b|\bDate\.now\(|\btime\.time\(/, "the clock"],
];

/** Lines of a solution shorter than this occur anywhere. */
const TELLING_LINE = 32;

const decoder = new TextDecoder();
const textOf = ({ content }: SandboxFile) => decoder.decode(content);

/** Why a task cannot be used; empty when nothing was found. */
export function taskFaults(task: Task, limits: HeuristicLimits = HEURISTIC_LIMITS): string[] {
  const faults: string[] = [];
  const { instruction, files, tests, solution } = task;
  const all = [...files, ...tests, ...solution];
  const bytes = all.reduce((sum, { content }) => sum + content.length, 0);
  if (instruction.length < limits.minInstruction)
    faults.push(`the instruction has ${instruction.length} characters, fewer than ${limits.minInstruction}`);
  if (instruction.length > limits.maxInstruction)
    faults.push(`the instruction has ${instruction.length} characters, more than ${limits.maxInstruction}`);
  if (all.length > limits.maxFiles) faults.push(`it has ${all.length} files, more than ${limits.maxFiles}`);
  if (bytes > limits.maxBytes) faults.push(`its files have ${bytes} bytes, more than ${limits.maxBytes}`);
  const told = FORBIDDEN.exec(instruction)?.[1];
  if (told !== undefined) faults.push(`the instruction names ${told}`);
  for (const file of solution) {
    const place = FORBIDDEN.exec(textOf(file).replaceAll("/solution/", ""))?.[1];
    if (place !== undefined) faults.push(`solution/${file.path} uses ${place}`);
  }
  for (const file of tests) {
    const found = CHANCE.find(([pattern]) => pattern.test(textOf(file)));
    if (found !== undefined) faults.push(`tests/${file.path} depends on ${found[1]}`);
  }
  return [...faults, ...leaks(task)];
}

/** Where the solution can be read off before anything is solved. */
function leaks({ instruction, files, tests, solution }: Task): string[] {
  const faults: string[] = [];
  const hidden = [
    ...solution.map((file) => ({ name: `solution/${file.path}`, text: textOf(file).trim() })),
    ...tests
      .filter(({ path }) => path === "test.sh")
      .map((file) => ({ name: "tests/test.sh", text: textOf(file).trim() })),
  ].filter(({ text }) => text.length >= TELLING_LINE);
  for (const file of files) {
    const text = textOf(file);
    const shown = hidden.find((one) => text.includes(one.text));
    if (shown !== undefined) faults.push(`environment/files/${file.path} contains ${shown.name}`);
  }
  for (const { name, text } of hidden) {
    if (!name.startsWith("solution/")) continue;
    const line = text.split("\n").find((one) => one.trim().length >= TELLING_LINE && instruction.includes(one.trim()));
    if (line !== undefined) faults.push(`the instruction contains a line of ${name}`);
  }
  return faults;
}

/** Why an attempt should not be learned from; empty when nothing was found. */
export function attemptFaults({ turns, stopReason }: Attempt, limits: HeuristicLimits = HEURISTIC_LIMITS): string[] {
  const faults: string[] = [];
  if (stopReason !== "done") faults.push(`it ended by ${stopReason}`);
  if (turns.length === 0) faults.push("it has no turn");
  if (turns.length > limits.maxTurns) faults.push(`it has ${turns.length} turns, more than ${limits.maxTurns}`);
  const share = (count: number) => count / Math.max(1, turns.length);
  const failed = share(turns.filter(({ command, exitCode }) => command !== "" && exitCode !== 0).length);
  if (failed > limits.maxErrors) faults.push(`${percent(failed)} of its commands failed`);
  const malformed = share(turns.filter(({ command }) => command === "").length);
  if (malformed > limits.maxMalformed) faults.push(`${percent(malformed)} of its answers were no command`);
  const repeats = longestRepeat(turns.map(({ command, observation }) => `${command}\0${observation}`));
  if (repeats > limits.maxRepeats) faults.push(`it repeats a command ${repeats} times in a row`);
  const place = turns.map(({ command }) => FORBIDDEN.exec(command)?.[1]).find((found) => found !== undefined);
  if (place !== undefined) faults.push(`it reaches for ${place}`);
  return faults;
}

function longestRepeat(values: readonly string[]): number {
  let longest = 0;
  let current = 0;
  for (const [i, value] of values.entries()) {
    current = i > 0 && value === values[i - 1] ? current + 1 : 1;
    longest = Math.max(longest, current);
  }
  return longest;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}
