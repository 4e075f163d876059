/** `ale data`: tasks made by agents, and what is done until they may be trained on. */

import type { Command } from "commander";
import { type CommandLine, examples } from "./command-line.ts";
import { defineDecontaminate } from "./data/decontaminate.ts";
import { defineFilter } from "./data/filter.ts";
import { defineReview } from "./data/review.ts";
import { defineSelect } from "./data/select.ts";
import { defineSynth } from "./data/synth.ts";

export function defineData(command: Command, cli: CommandLine): void {
  command.addHelpText(
    "after",
    examples(
      [
        "ale data synth ./project --out data/raw --policy openai:http://127.0.0.1:8000/v1#qwen3",
        "tasks out of a project",
      ],
      [
        "ale data filter data/raw --out data/checked --judge openai:http://127.0.0.1:8000/v1#qwen3",
        "only those that hold",
      ],
      [
        "ale data select data/checked --out data/train --policy models/mine --pass-rate 0.1..0.9",
        "neither trivial nor hopeless",
      ],
    ),
  );
  defineSynth(command.command("synth"), cli);
  defineFilter(command.command("filter"), cli);
  defineSelect(command.command("select"), cli);
  defineDecontaminate(command.command("decontaminate"), cli);
  defineReview(command.command("review"), cli);
}
