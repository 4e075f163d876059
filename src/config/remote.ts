/** `[remote]`: an OpenAI-compatible chat-completions server that answers in place of a policy of ours. */

import { z } from "zod";

const OMISSIBLE = ["temperature", "top_p", "seed", "stream_options"] as const;

export const RemoteSchema = z
  .strictObject({
    url: z
      .string()
      .regex(/^https?:\/\/\S+$/, "an address such as http://127.0.0.1:8000/v1")
      .optional()
      .describe("Address up to /v1; --policy openai:URL#MODEL names another"),
    model: z.string().min(1).max(200).optional().describe("Name of the model there"),
    apiKeyEnv: z
      .string()
      .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "the name of an environment variable")
      .default("OPENAI_API_KEY")
      .describe("Environment variable that holds the key; without such a variable none is sent"),
    timeout: z.number().min(0.1).max(86_400).default(300).describe("Seconds that one try may take"),
    retries: z
      .number()
      .int()
      .min(0)
      .max(100)
      .default(5)
      .describe("Times a request is tried again, with growing pauses, after a failure that may pass"),
    concurrency: z.number().int().min(1).max(10_000).default(8).describe("Requests in flight at once"),
    maxTokens: z
      .number()
      .int()
      .min(1)
      .max(10_000_000)
      .optional()
      .describe("Most tokens of an answer, in the server's tokens; rollout.maxCommandTokens when omitted"),
    stream: z
      .boolean()
      .default(false)
      .describe("Ask for the answer in pieces, for servers that cut silent connections"),
    omit: z
      .array(z.enum(OMISSIBLE))
      .default([])
      .describe("Parameters that are not sent, for servers that do not take them"),
  })
  .describe("Server that answers where the policy is openai:URL#MODEL; absent = the defaults");

export type RemoteConfig = z.infer<typeof RemoteSchema>;
