import { randomInt } from "node:crypto";
import { type Command, Option } from "commander";
import { AleError } from "../core/errors.ts";
import type { Quantization } from "../core/quantization.ts";
import type { GenerateInput, GenerateResult } from "../experiment/api.ts";
import { sanitizeLine, sanitizeText } from "../tui/sanitize.ts";
import { type CommandLine, examples, quantizationOption, realNumber, wholeNumber } from "./command-line.ts";
import { listenForInterrupt } from "./interrupt.ts";

interface GenerateFlags {
  readonly model: string;
  readonly adapter?: string;
  readonly quantization?: Quantization;
  readonly prompt?: string;
  readonly ids?: number[];
  readonly chat?: boolean;
  readonly system?: string;
  readonly greedy?: boolean;
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly topLogprobs?: number;
  readonly stop?: string[];
  readonly stopIds?: number[];
  readonly ignoreEnd?: boolean;
  readonly seed?: number;
  readonly threads: number;
  readonly json?: boolean;
}

const MAX_SEED = 2 ** 31 - 1;

export function defineGenerate(command: Command, cli: CommandLine): void {
  command
    .option("--model <path>", "folder of a model, a GGUF file, or the name of a shipped one", "models/shell-start")
    .option("--adapter <dir>", "PEFT folder of low-rank adapters to put on the model")
    .addOption(quantizationOption())
    .addOption(new Option("--prompt <text>", "text to continue; special tokens may be written out").conflicts("ids"))
    .option(
      "--ids <list>",
      "token ids to continue, e.g. 1,22,333; nothing is added, and end tokens end nothing",
      idList,
    )
    .option("--chat", "say the prompt to the model as a user, through its chat template")
    .option("--system <text>", "the system message before it; needs --chat")
    .option("--greedy", "most likely token instead of sampling")
    .option("--max-tokens <n>", "longest answer in tokens", wholeNumber("--max-tokens", 1, 1_000_000), 128)
    .option(
      "--temperature <t>",
      "sampling temperature (this and the next four: default as generation_config.json says)",
      temperature,
    )
    .option("--top-k <k>", "only the k most likely tokens; 0 for all", wholeNumber("--top-k", 0, 10_000_000))
    .option("--top-p <p>", "only the most likely tokens that together reach p", realNumber("--top-p", 0.000001, 1))
    .option("--min-p <p>", "only tokens at least p times as likely as the most likely", realNumber("--min-p", 0, 1))
    .option("--repetition-penalty <r>", "divide the logits of tokens that were there before", penalty)
    .option("--top-logprobs <n>", "with --json, the n most likely tokens at each position", topLogprobs)
    .option("--stop <text...>", "end the answer before this text; may be given several times")
    .option("--stop-ids <list>", "end the answer with one of these tokens, besides the model's end tokens", stopIdList)
    .option("--ignore-end", "go on behind the model's end tokens")
    .option("--seed <n>", "seed of the sampling (default: another one each time)", wholeNumber("--seed", 0, MAX_SEED))
    .option("--threads <n>", "threads of the engine", wholeNumber("--threads", 1, 1024), 2)
    .option("--json", "print {ids, text, logprobs, …} instead of streaming the text")
    .description("Have a model continue a prompt; the text appears as it is sampled.")
    .addHelpText(
      "after",
      examples(
        ['ale generate --prompt "<task>delete the file notes.txt<cmd>" --greedy', "what the shipped policy would type"],
        ['ale generate --model path/to/Qwen3-0.6B --chat --prompt "Why is the sky blue?"', "a chat model"],
        ["ale generate --model DIR --ids 1,22,333 --greedy --max-tokens 16 --json", "tokens in, tokens out"],
      ),
    )
    .action(async (flags: GenerateFlags) => {
      const input = inputOf(flags);
      const { generateAnswer } = await import("../experiment/generate.ts");
      using interrupt = listenForInterrupt(false, (message) => cli.note(message));
      const safe = cli.stdout.isTTY === true ? sanitizeText : (piece: string) => piece;
      const result = await generateAnswer({
        model: flags.model,
        adapter: flags.adapter,
        quantization: flags.quantization ?? "none",
        input,
        sampling: {
          greedy: flags.greedy ?? false,
          maxTokens: flags.maxTokens,
          temperature: flags.temperature,
          topK: flags.topK,
          topP: flags.topP,
          minP: flags.minP,
          repetitionPenalty: flags.repetitionPenalty,
          topLogprobs: flags.topLogprobs,
        },
        stopStrings: flags.stop ?? [],
        stopIds: flags.stopIds ?? [],
        ignoreEnd: flags.ignoreEnd ?? false,
        seed: flags.seed ?? randomInt(MAX_SEED),
        threads: flags.threads,
        signal: interrupt.signal,
        ...(flags.json ? {} : { onText: (piece: string) => void cli.stdout.write(safe(piece)) }),
      });
      if (flags.json) cli.printJson(result);
      else printEnd(cli, result);
    });
}

function printEnd(cli: CommandLine, { text, ids, stop, stopString, seed }: GenerateResult): void {
  cli.print(text === null ? ids.join(" ") : "");
  const why = stopString === undefined ? stop : `${stop} at ${JSON.stringify(sanitizeLine(stopString, 40))}`;
  cli.note(cli.paint("dim", `${ids.length} tokens, ended by ${why}, seed ${seed}`));
}

function inputOf({ prompt, ids, chat, system }: GenerateFlags): GenerateInput {
  if (system !== undefined && chat !== true) {
    throw new AleError("usage", "--system is only said in a conversation", { hint: "add --chat" });
  }
  if (ids !== undefined) {
    if (chat !== true) return { kind: "ids", ids };
    throw new AleError("usage", "--chat writes a text, and --ids gives tokens", { hint: "use --prompt with --chat" });
  }
  if (prompt === undefined) {
    throw new AleError("usage", "there is nothing to continue", { hint: 'give --prompt "some text" or --ids 1,2,3' });
  }
  if (chat !== true) return { kind: "text", text: prompt };
  return system === undefined ? { kind: "chat", text: prompt } : { kind: "chat", text: prompt, system };
}

const idList = idListOf("--ids");
const stopIdList = idListOf("--stop-ids");
const temperature = realNumber("--temperature", 0.01, 10);
const penalty = realNumber("--repetition-penalty", 0.01, 100);
const topLogprobs = wholeNumber("--top-logprobs", 1, 20);

/** A reader of token ids, separated by commas or spaces. */
function idListOf(option: string): (text: string) => number[] {
  return (text) => {
    const words = text.split(/[\s,]+/).filter((word) => word !== "");
    const wrong = words.find((word) => !/^\d{1,9}$/.test(word));
    if (wrong === undefined && words.length > 0) return words.map(Number);
    throw new AleError("usage", `${option} is ${JSON.stringify(text.slice(0, 60))}; expected token ids`, {
      hint: `write ${option} 1,22,333`,
    });
  };
}
