/**
 * How likely the tokens of prompts are, as OpenAI's completions API tells it with `echo`, and as vLLM does with `prompt_logprobs`:
 * what on-policy distillation asks a teacher on another machine. Nothing is generated here.
 */

import { Hono } from "hono";
import { z } from "zod";
import type { Tokenizer } from "../../core/ports.ts";
import { HttpError } from "../http-error.ts";
import { readBody } from "../json-body.ts";
import type { ScoreQueue, SequenceScore } from "./score-queue.ts";

export interface ScoringOptions {
  readonly queue: ScoreQueue;
  /** What clients call the model. */
  readonly model: string;
  readonly tokenizer: Tokenizer;
  readonly vocabularySize: number;
  readonly contextLength: number;
}

const MAX_TOP = 1024;
const count = z.number().int().min(0).max(MAX_TOP);
const Completion = z.object({
  model: z.string().optional(),
  prompt: z.array(z.number().int().min(0)).min(1),
  max_tokens: z.number().int().min(0).max(1).default(0),
  echo: z.boolean().default(false),
  logprobs: count.nullish(),
  prompt_logprobs: count.nullish(),
  return_tokens_as_token_ids: z.boolean().default(false),
});

/** Routes below `/v1`. */
export function scoringRoutes(options: ScoringOptions): Hono {
  const app = new Hono();
  app.get("/models", (c) =>
    c.json({ object: "list", data: [{ id: options.model, object: "model", owned_by: "ale" }] }),
  );
  app.post("/completions", async (c) => {
    const body = await readBody(c, Completion);
    const ids = checkedPrompt(body, options);
    const isEcho = body.echo && typeof body.logprobs === "number";
    if (!isEcho && typeof body.prompt_logprobs !== "number") {
      const message = "this service tells how likely prompts are, and writes nothing";
      throw new HttpError(400, "bad_request", message, "send echo and logprobs, or prompt_logprobs");
    }
    const top = Math.max(isEcho ? (body.logprobs ?? 0) : 0, body.prompt_logprobs ?? 0);
    const score = await options.queue.score(ids, Math.min(top, options.vocabularySize));
    const name = (id: number) => nameOf(options.tokenizer, id, body.return_tokens_as_token_ids);
    const choice = {
      index: 0,
      text: "",
      finish_reason: "length",
      logprobs: isEcho ? echoed(ids, score, name) : null,
      ...(typeof body.prompt_logprobs === "number" && {
        prompt_logprobs: promptLogprobs(ids, score, options.tokenizer),
      }),
    };
    return c.json({
      id: `cmpl-${crypto.randomUUID()}`,
      object: "text_completion",
      created: Math.floor(Date.now() / 1000),
      model: options.model,
      choices: [choice],
      usage: { prompt_tokens: ids.length, completion_tokens: 0, total_tokens: ids.length },
    });
  });
  return app;
}

function checkedPrompt({ prompt }: z.infer<typeof Completion>, options: ScoringOptions): Int32Array {
  const { vocabularySize, contextLength, model } = options;
  const unknown = prompt.find((id) => id >= vocabularySize);
  if (unknown !== undefined) throw new HttpError(400, "bad_request", `prompt: ${model} has no token ${unknown}`);
  if (prompt.length > contextLength) {
    const message = `prompt: ${model} reads at most ${contextLength} tokens, not ${prompt.length}`;
    throw new HttpError(400, "context_length_exceeded", message);
  }
  return Int32Array.from(prompt);
}

function nameOf(tokenizer: Tokenizer, id: number, asId: boolean): string {
  return asId ? `token_id:${id}` : new TextDecoder().decode(tokenizer.bytes(id));
}

/** Likeliest tokens at place t, best first. */
function likeliest({ top }: SequenceScore, t: number): readonly (readonly [id: number, logprob: number])[] {
  const { count: width = 0 } = top ?? {};
  return Array.from({ length: width }, (_, i) => {
    const at = t * width + i;
    return [top?.ids[at] as number, top?.logprobs[at] as number] as const;
  });
}

function echoed(ids: Int32Array, score: SequenceScore, name: (id: number) => string) {
  const places = [...ids.keys()];
  return {
    tokens: places.map((t) => name(ids[t] as number)),
    token_logprobs: places.map((t) => (t === 0 ? null : (score.logprobs[t] as number))),
    top_logprobs: places.map((t) =>
      t === 0 ? null : Object.fromEntries(likeliest(score, t).map(([id, logprob]) => [name(id), logprob])),
    ),
  };
}

function promptLogprobs(ids: Int32Array, score: SequenceScore, tokenizer: Tokenizer) {
  return Array.from(ids, (own, t) => {
    if (t === 0) return null;
    const entry = (id: number, logprob: number, rank: number | null) => [
      String(id),
      { logprob, rank, decoded_token: nameOf(tokenizer, id, false) },
    ];
    const named = likeliest(score, t).map(([id, logprob], i) => entry(id, logprob, i + 1));
    const isNamed = named.some(([id]) => id === String(own));
    return Object.fromEntries(isNamed ? named : [...named, entry(own, score.logprobs[t] as number, null)]);
  });
}
