/** Commands, sessions and files in ROCK's words. */

import { posix } from "node:path";
import { z } from "zod";
import { FileMissing } from "../../sandbox/sandbox-files.ts";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import { type ShellResult, ShellSyntaxError } from "../../sandbox/shells.ts";
import { Code, type Envelope, nonBlank, RockError, sessionFailure, success } from "./envelope.ts";
import { decodeBackslash, decodeFile, quoted, sessionText } from "./text.ts";

/** Of a stream, both ends. ROCK has no limit; one is needed. */
const MAX_OUTPUT_BYTES = 8 << 20;
const MAX_FILE_BYTES = 64 << 20;
/** What ROCK reports where the shell's prompt came, and nothing that was expected. */
const PROMPT = "SHELLPS1PREFIX";

const environment = z.record(z.string(), z.string()).nullish();
const inSandbox = { sandbox_id: nonBlank };

export const ExecuteRequest = z.object({
  ...inSandbox,
  command: z.union([z.string(), z.array(z.string()).min(1)]),
  timeout: z.number().nullish().default(1200),
  env: environment,
  cwd: z.string().nullish(),
  shell: z.boolean().default(false),
  check: z.boolean().default(false),
  error_msg: z.string().default(""),
});

export const CreateSessionRequest = z.object({
  ...inSandbox,
  session: z.string().default("default"),
  session_type: z.literal("bash").default("bash"),
  startup_source: z.array(z.string()).default([]),
  env_enable: z.boolean().default(false),
  env: environment,
  remote_user: z.string().nullish(),
  startup_timeout: z.number().default(1),
  max_read_size: z.number().default(2000),
});

export const RunRequest = z.object({
  ...inSandbox,
  action_type: z.literal("bash").default("bash"),
  session: z.string().default("default"),
  command: z.string(),
  timeout: z.number().nullish(),
  check: z.enum(["silent", "raise", "ignore"]).default("raise"),
  is_interactive_command: z.boolean().default(false),
  is_interactive_quit: z.boolean().default(false),
  error_msg: z.string().default(""),
  expect: z.array(z.string()).default([]),
});
type RunRequest = z.infer<typeof RunRequest>;

export const CloseSessionRequest = z.object({ ...inSandbox, session: z.string().default("default") });
export const ReadFileRequest = z.object({
  ...inSandbox,
  path: z.string(),
  encoding: z.string().nullish(),
  errors: z.string().nullish(),
});
export const WriteFileRequest = z.object({ ...inSandbox, path: z.string(), content: z.string() });

/** Seconds as milliseconds; null: no limit. */
function limitOf(seconds: number | null | undefined): number {
  return seconds == null ? Number.POSITIVE_INFINITY : Math.max(1, seconds * 1000);
}

function explained(message: string, errorMessage: string): string {
  return errorMessage === "" ? message : `${errorMessage}: ${message}`;
}

/** A text is run by a shell whether or not `shell` says so: as the name of a program it would be of no use. */
function programOf(command: string | readonly string[], shell: boolean): string[] {
  if (typeof command === "string") return ["sh", "-c", command];
  return shell ? ["sh", "-c", ...command] : [...command];
}

export async function execute(
  sandbox: ManagedSandbox,
  request: z.infer<typeof ExecuteRequest>,
  signal: AbortSignal,
): Promise<Envelope> {
  const { command, timeout, env, cwd, shell, check, error_msg } = request;
  const result = await sandbox.exec(programOf(command, shell), {
    cwd: sandbox.resolve(cwd ?? "."),
    env: env ?? undefined,
    timeoutMs: limitOf(timeout),
    maxOutputBytes: MAX_OUTPUT_BYTES,
    signal,
  });
  if (result.status === "timeout")
    throw new RockError(Code.command, `Timeout (${timeout}s) exceeded while running command`);
  if (result.status === "output_limit")
    throw new RockError(Code.command, `the command was ended: it wrote more than ${result.outputBytes} bytes`);
  const answer = {
    stdout: decodeBackslash(result.output),
    stderr: decodeBackslash(result.errorOutput),
    exit_code: result.exitCode,
  };
  if (!check || result.exitCode === 0) return success(answer);
  const message =
    `Command ${JSON.stringify(command)} failed with exit code ${result.exitCode}. ` +
    `Stdout:\n${quoted(answer.stdout)}\nStderr:\n${quoted(answer.stderr)}`;
  throw new RockError(Code.command, explained(message, error_msg));
}

export async function createSession(
  sandbox: ManagedSandbox,
  { session, startup_source, env, remote_user }: z.infer<typeof CreateSessionRequest>,
): Promise<Envelope> {
  await sandbox.openShell(session, { env: env ?? undefined, user: remote_user ?? undefined });
  let output = "";
  for (const path of startup_source) {
    const source = `source '${path.replaceAll("'", "'\\''")}'`;
    const result = await sandbox.runInShell(session, source, { timeoutMs: 60_000, maxOutputBytes: MAX_OUTPUT_BYTES });
    output += sessionText(result.output);
  }
  return success({ output, session_type: "bash" });
}

/** ROCK's expectations are regular expressions; one that is none here is taken as it stands. */
function toPattern(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch {
    return new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  }
}

export async function runInSession(
  sandbox: ManagedSandbox,
  request: RunRequest,
  signal: AbortSignal,
): Promise<Envelope> {
  const interactive = request.is_interactive_command || request.is_interactive_quit;
  let result: ShellResult;
  try {
    result = await sandbox.runInShell(request.session, request.command, {
      timeoutMs: limitOf(request.timeout),
      maxOutputBytes: MAX_OUTPUT_BYTES,
      signal,
      checkSyntax: !interactive,
      interactive,
      expect: request.expect.map(toPattern),
    });
  } catch (error) {
    if (!(error instanceof ShellSyntaxError)) throw error;
    return sessionFailure(`${error.message}\nwhile checking bash command\n${quoted(request.command)}`);
  }
  return observe(request, result, interactive);
}

/** ROCK's observation, or why there is none. */
function observe(
  { command, timeout, check, error_msg }: RunRequest,
  result: ShellResult,
  interactive: boolean,
): Envelope {
  const output = sessionText(result.output);
  if (result.status === "timeout")
    return sessionFailure(`timeout after ${timeout} seconds while running command ${quoted(command)}`);
  if (result.status === "output_limit")
    return sessionFailure(`the command was ended: it wrote more than ${result.outputBytes} bytes`);
  if (result.status === "shell_died")
    return sessionFailure(
      `the shell ended with exit code ${result.exitCode} while running command ${quoted(command)}; it starts anew. ` +
        `Here is the output:\n${quoted(output)}`,
    );
  const observation = (exitCode: number | null) =>
    success({
      ...{ session_type: "bash", output, exit_code: exitCode, failure_reason: "" },
      expect_string: result.matched ?? PROMPT,
    });
  if (interactive) return observation(0);
  if (check === "ignore" || result.matched !== undefined) return observation(null);
  if (check === "silent" || result.exitCode === 0) return observation(result.exitCode);
  const message = `Command ${quoted(command)} failed with exit code ${result.exitCode}. Here is the output:\n${quoted(output)}`;
  return sessionFailure(explained(message, error_msg));
}

export async function closeSession(sandbox: ManagedSandbox, session: string): Promise<Envelope> {
  await sandbox.closeShell(session);
  return success({ session_type: "bash" });
}

export async function readFile(
  sandbox: ManagedSandbox,
  { path, encoding, errors }: z.infer<typeof ReadFileRequest>,
): Promise<Envelope> {
  const bytes = await sandbox.withFiles((files) => files.read(path, MAX_FILE_BYTES));
  return success({ content: decodeFile(bytes, encoding ?? null, errors ?? null) });
}

export async function writeFile(sandbox: ManagedSandbox, path: string, content: string): Promise<Envelope> {
  await sandbox.withFiles((files) => files.write(path, new TextEncoder().encode(content)));
  return success({ success: true, message: "" });
}

/** Into a folder the file goes under its own name. */
export async function upload(sandbox: ManagedSandbox, target: string, file: File): Promise<Envelope> {
  const content = new Uint8Array(await file.arrayBuffer());
  const path = await sandbox.withFiles(async (files) => {
    const found = await files.stat(target).catch((error: unknown) => {
      if (error instanceof FileMissing) return undefined;
      throw error;
    });
    const path = found?.kind === "folder" ? posix.join(target, posix.basename(file.name)) : target;
    await files.write(path, content);
    return path;
  });
  return success({ success: true, message: "", file_name: posix.basename(path) });
}
