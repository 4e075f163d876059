/** What is learned from a teacher: the keys that `[distillation]` and a stage with objective `distill` share, and the former. */

import { z } from "zod";

export const DIVERGENCES = ["forward", "reverse", "skewed", "js"] as const;
export type Divergence = (typeof DIVERGENCES)[number];

const ServerSchema = z
  .strictObject({
    model: z.string().min(1).max(200).describe("Name of the model there"),
    apiKeyEnv: z
      .string()
      .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "the name of an environment variable")
      .default("OPENAI_API_KEY")
      .describe("Environment variable that holds the key; without such a variable none is sent"),
    protocol: z
      .enum(["echo", "prompt_logprobs"])
      .default("echo")
      .describe("How log-probabilities of a prompt are asked for: OpenAI's `echo`, or vLLM's `prompt_logprobs`"),
    timeout: z.number().min(0.1).max(86_400).default(300).describe("Seconds that one try may take"),
    retries: z.number().int().min(0).max(100).default(5).describe("Times a request is tried again after a failure"),
    concurrency: z.number().int().min(1).max(10_000).default(8).describe("Requests in flight at once"),
  })
  .describe("For a teacher behind an address: the server");

export type TeacherServer = z.infer<typeof ServerSchema>;

/** Where the teacher is, and how far the student may be from it. All optional, for tables that have their own defaults. */
export const TEACHER_KEYS = {
  teacher: z
    .string()
    .min(1)
    .optional()
    .describe("The teacher: a Hugging Face folder or GGUF file, or the address up to /v1 of a server"),
  server: ServerSchema.optional(),
  divergence: z
    .enum(DIVERGENCES)
    .optional()
    .describe("On the teacher's likeliest tokens: KL(teacher ‖ student), the reverse, skewed or Jensen-Shannon"),
  topK: z
    .number()
    .int()
    .min(1)
    .max(1024)
    .optional()
    .describe("The teacher's likeliest tokens that are compared at each place; 16 when omitted"),
  mix: z
    .number()
    .min(0.001)
    .max(0.999)
    .optional()
    .describe("skewed, js: share λ of the teacher in what is compared with; 0.1 and 0.5 when omitted"),
};

export const DistillationSchema = z
  .strictObject({
    ...TEACHER_KEYS,
    teacher: TEACHER_KEYS.teacher.unwrap(),
    in: z
      .enum(["reward", "loss"])
      .default("reward")
      .describe("log π − log π_teacher of each sampled token off its advantage, or a divergence as a term of the loss"),
    weight: z.number().min(0).max(1000).default(1).describe("Its weight"),
    rl: z
      .number()
      .min(0)
      .max(1000)
      .default(1)
      .describe("Weight of the advantages that rewards give; 0 = learn from the teacher alone"),
  })
  .superRefine((settings, context) => {
    const refuse = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
    for (const key of ["divergence", "topK", "mix"] as const)
      if (settings.in === "reward" && settings[key] !== undefined) refuse(key, 'belongs to in = "loss"');
    for (const { key, message } of teacherProblems(settings)) refuse(key, message);
  })
  .optional()
  .describe("On-policy distillation: a teacher judges what the policy samples; absent = off");

export type DistillationConfig = NonNullable<z.infer<typeof DistillationSchema>>;

export function isAddress(teacher: string): boolean {
  return /^https?:\/\//.test(teacher);
}

/** Where none is set: in a stage of `ale sft`, and in `[distillation]`. */
export const STAGE_DIVERGENCE: Divergence = "forward";
export const ON_POLICY_DIVERGENCE: Divergence = "reverse";
export const DEFAULT_TOP_K = 16;

/** What is wrong with these keys together; the rest of a sentence that begins with the key. */
export function teacherProblems(settings: {
  readonly teacher?: string | undefined;
  readonly server?: TeacherServer | undefined;
  readonly divergence?: Divergence | undefined;
  readonly mix?: number | undefined;
}): { readonly key: string; readonly message: string }[] {
  const { teacher = "", server, divergence, mix } = settings;
  const problems: { key: string; message: string }[] = [];
  if (isAddress(teacher) && server === undefined)
    problems.push({ key: "server", message: "is missing: the teacher is an address; set server.model" });
  if (!isAddress(teacher) && server !== undefined)
    problems.push({ key: "server", message: `belongs to a teacher that is an address, and "${teacher}" is none` });
  if (mix !== undefined && divergence !== "skewed" && divergence !== "js")
    problems.push({ key: "mix", message: 'belongs to divergence "skewed" and "js"' });
  return problems;
}
