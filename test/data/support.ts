/** A small project, agents that play their roles as written down, and a server that answers for them. */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { DONE_WORD, writeCommandBlock } from "../../src/agent/chat-answer.ts";
import { runCli } from "../../src/cli/program.ts";
import { ScriptedChatModel, type ScriptRule } from "../../src/policy/scripted-chat.ts";
import { setProfileTexts } from "../../src/sandbox/profile-texts.ts";
import type { ChatMessage } from "../../src/tokens/chat-template.ts";

/** Runs a command line; its exit code, and what it printed. */
export async function ale(...argv: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  setProfileTexts(new Map([["host", readFileSync("sandboxes/host.toml", "utf8")]]));
  let out = "";
  let err = "";
  const stdout = {
    write: (text: string) => {
      out += text;
    },
  };
  const stderr = {
    write: (text: string) => {
      err += text;
    },
  };
  try {
    const code = await runCli(argv, { stdout, stderr, env: process.env });
    return { code, out, err };
  } finally {
    setProfileTexts(undefined);
  }
}

/** The values of a file with one JSON value per line. */
export function lines(path: string) {
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
}

export function writeFiles(folder: string, files: Readonly<Record<string, string>>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

/** The project that tasks are made from. */
export function writeProject(folder: string): void {
  writeFiles(folder, {
    "app.log": "INFO start\nERROR disk\nINFO go on\nERROR net\nERROR disk\n",
    LICENSE: "Permission is hereby granted, free of charge, to any person obtaining a copy of this",
    ".env": "TOKEN=secret",
    ".git/HEAD": "ref: refs/heads/main\n",
    ".git/refs/heads/main": `${"a1".repeat(20)}\n`,
  });
}

const IDEAS = [
  { title: "Count errors", idea: "Count the lines with ERROR.", files: ["app.log"], difficulty: "easy" },
  { title: "Leaky at first", idea: "Say which words follow INFO." },
  { title: "Chance decides", idea: "A test that is not sure." },
  { title: "Nothing comes", idea: "The builder gives up." },
  { title: "Too narrow", idea: "The tests want one way of doing it." },
  { title: "", idea: "no title" },
];

/** Commands that write a task; `answer` is what its tests want in `answer.txt`. */
function build(instruction: string, solution: string, test: string): string[] {
  return [
    "mkdir -p /work/out/task/{tests,solution,environment/files} && cd /work/out/task",
    `cat > instruction.md <<'EOF'\n${instruction}\nEOF`,
    "cp /work/repo/app.log environment/files/",
    `cat > tests/test.sh <<'EOF'\n${test}\nEOF`,
    `cat > solution/solve.sh <<'EOF'\n${solution}\nEOF`,
  ];
}

const COUNT =
  "Write the number of lines of app.log that begin with ERROR to the file answer.txt, as digits and nothing else.";
const INFO = "Write what follows INFO in app.log, one line each, in their order, to the file info.txt.";
export const passIf = (condition: string) =>
  `if ${condition}; then echo 1; else echo 0; fi > /logs/verifier/reward.txt`;

const REVIEW = [
  "cd /work/task; mkdir -p /work/out/alternatives /work/out/mistakes",
  // What a reviewer finds depends on the task it was given.
  `if grep -q ERROR instruction.md; then echo 'grep ERROR app.log | wc -l > answer.txt' > /work/out/alternatives/wc.sh; echo 'echo 5 > answer.txt' > /work/out/mistakes/all.sh; fi`,
  `if grep -q narrow instruction.md; then echo 'printf "done\\n" > narrow.txt' > /work/out/alternatives/newline.sh; fi`,
  `echo '{"accept": true, "reasons": []}' > /work/out/review.json`,
];

/** The script of all four roles. */
export const SCRIPT: readonly ScriptRule[] = [
  // Before those that what is judged may contain.
  {
    when: "Judge a task",
    answers: ['It holds. {"score": 9, "reason": "clear"}'],
  },
  { when: ["Judge an agent's attempt", "$ cat app.log"], answers: ['{"score": 8, "reason": "to the point"}'] },
  { when: "Judge an agent's attempt", answers: ['{"score": 2, "reason": "aimless"}'] },
  {
    when: "Role: explore",
    commands: ["ls /work/repo", `cat > /work/out/ideas.json <<'EOF'\n${JSON.stringify(IDEAS)}\nEOF`],
  },
  {
    when: ["Role: build", "Count errors"],
    commands: build(
      COUNT,
      "grep -c '^ERROR' app.log > answer.txt",
      passIf('[ "$(tr -d "[:space:]" < answer.txt)" = 3 ]'),
    ),
  },
  {
    when: ["Role: build", "Leaky at first", "was not accepted"],
    commands: ["sed -i 's/^You may run.*//' /work/out/task/instruction.md"],
  },
  {
    when: ["Role: build", "Leaky at first"],
    commands: build(
      `${INFO}\nYou may run: sed -n 's/^INFO //p' app.log > info.txt`,
      "sed -n 's/^INFO //p' app.log > info.txt",
      passIf('[ "$(cat info.txt)" = "$(printf "start\\ngo on")" ]'),
    ),
  },
  {
    when: ["Role: build", "Chance decides"],
    commands: build(
      "Write the word done to the file chance.txt, in lower-case letters, and end the line.",
      "echo done > chance.txt",
      `case "$(mktemp -u)" in *[a-mA-M]) echo 1;; *) echo 0;; esac > /logs/verifier/reward.txt`,
    ),
  },
  { when: ["Role: build", "Nothing comes"], commands: ["true"] },
  {
    when: ["Role: build", "Too narrow"],
    commands: build(
      "Write the word done to the file narrow.txt, so that it is the only word in there.",
      "printf done > narrow.txt",
      passIf('[ "$(wc -c < narrow.txt)" = 4 ]'),
    ),
  },
  { when: "Role: review", commands: REVIEW },
  { when: "begin with ERROR", commands: ["cat app.log", "grep -c '^ERROR' app.log > answer.txt"] },
  { when: "what follows INFO", commands: ["grep INFO app.log > info.txt"] },
  { when: "Say OK", answers: ["OK"] },
];

export function scripted(rules: readonly ScriptRule[] = SCRIPT): ScriptedChatModel {
  return new ScriptedChatModel("script", rules, { writeCommand: writeCommandBlock, done: DONE_WORD });
}

/** An OpenAI-compatible server on this machine that answers by a script. */
export class ScriptServer implements Disposable {
  readonly #server: Bun.Server<undefined>;
  requests = 0;
  /** Requests that it refuses before it answers. */
  failures = 0;

  constructor(rules: readonly ScriptRule[] = SCRIPT) {
    const model = scripted(rules);
    this.#server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: async (request) => {
        if (request.headers.get("authorization") !== "Bearer test-key")
          return Response.json({ error: { message: "wrong key" } }, { status: 401 });
        const body = (await request.json()) as {
          model: string;
          messages: ChatMessage[];
          max_tokens: number;
          temperature: number;
        };
        if (body.model !== "scripted") return Response.json({ error: { message: "no such model" } }, { status: 404 });
        this.requests++;
        if (this.failures-- > 0) return new Response("busy", { status: 503 });
        const { messages, max_tokens: maxTokens, temperature } = body;
        const { text, promptTokens, answerTokens } = await model.complete({ messages, maxTokens, temperature });
        return Response.json({
          choices: [{ message: { role: "assistant", content: text }, finish_reason: "stop" }],
          usage: { prompt_tokens: promptTokens, completion_tokens: answerTokens },
        });
      },
    });
  }

  get policy(): string {
    return `openai:http://127.0.0.1:${this.#server.port}/v1#scripted`;
  }

  [Symbol.dispose](): void {
    this.#server.stop(true);
  }
}
