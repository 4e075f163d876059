/** What the native surface takes and gives. */

import { z } from "zod";
import { IMAGE_PROFILE, type NetworkSpec } from "../../core/types.ts";
import { NetworkPolicy, NO_NETWORK } from "../../sandbox/network/policy.ts";
import type { BackgroundCommand } from "../../sandbox/service/background-command.ts";
import { HAPPENINGS, possibleEvents } from "../../sandbox/service/lifecycle.ts";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { CreateRequest } from "../../sandbox/service/requests.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";

const MIB = 2 ** 20;
const DEFAULT_WORKDIR = "/work";
const seconds = z.number().min(0).max(31_536_000);
const variables = z.record(z.string(), z.string());
const command = z.union([z.string().min(1), z.array(z.string()).min(1)]);
const user = z.string().min(1).max(64);

export const NetworkBody = z.strictObject({
  mode: z.enum(["none", "allowlist", "public"]).default("none"),
  /** `host`, `*.host`, address or range; with `:port`, else 80 and 443. */
  allow: z.array(z.string().min(1).max(300)).max(1000).default([]),
  limits: z
    .strictObject({
      connections: z.number().int().min(1).max(64),
      totalConnections: z.number().int().min(1),
      bytesOut: z.number().int().min(0),
      bytesIn: z.number().int().min(0),
    })
    .partial()
    .optional(),
});

/** @throws AleError("usage") for a rule that is none. */
export function toNetwork({ mode, allow, limits }: z.infer<typeof NetworkBody>): NetworkSpec {
  const given = Object.entries(limits ?? {}).filter(([, value]) => value !== undefined);
  const network: NetworkSpec = { mode, allow, ...(given.length > 0 && { limits: Object.fromEntries(given) }) };
  void new NetworkPolicy(network);
  return network;
}

export const CreateBody = z.strictObject({
  id: z.string().optional(),
  /** Name of a profile in `sandboxes/`. */
  profile: z.string().default("host"),
  /** Name of an image, in the place of a profile. */
  image: z.string().optional(),
  /** Name of a snapshot to start from; limits and root file system are its own then. */
  snapshot: z.string().optional(),
  cpus: z.number().min(0.01).max(1024).default(1),
  memoryMb: z.number().int().min(16).default(512),
  diskMb: z.number().int().min(1).default(256),
  processes: z.number().int().min(4).default(256),
  /** Default: what the image says, or `/work`. */
  workdir: z.string().optional(),
  labels: variables.default({}),
  /** What it may reach; nothing when omitted. */
  network: NetworkBody.optional(),
  /** Stopped after this long without use; after this long in all; deleted after this long stopped. */
  idleSeconds: seconds.optional(),
  totalSeconds: seconds.optional(),
  stoppedSeconds: seconds.optional(),
  /** Archived after this long stopped, and not deleted then; deleted after this long archived. */
  archiveSeconds: seconds.optional(),
  archivedSeconds: seconds.optional(),
  /** The longest it waits for room. */
  queueSeconds: seconds.optional(),
  /** Answer when it can be used, not before. */
  wait: z.boolean().default(true),
});

const ms = (value: number | undefined) => (value === undefined ? undefined : value * 1000);

/** `imageWorkdir`: where commands begin as the image says. */
export function toCreateRequest(body: z.infer<typeof CreateBody>, imageWorkdir: string | undefined): CreateRequest {
  const { id, image, snapshot, cpus, memoryMb, diskMb, processes, labels } = body;
  const ttl = {
    ...{ idleMs: ms(body.idleSeconds), totalMs: ms(body.totalSeconds), stoppedMs: ms(body.stoppedSeconds) },
    ...{ archiveMs: ms(body.archiveSeconds), archivedMs: ms(body.archivedSeconds) },
  };
  const profile = image === undefined ? body.profile : IMAGE_PROFILE;
  const workdir = body.workdir ?? imageWorkdir ?? DEFAULT_WORKDIR;
  const given = Object.entries(ttl).filter(([, value]) => value !== undefined);
  return {
    id,
    labels,
    snapshot,
    environment: {
      ...{ profile, image, workdir, cpus, pids: processes },
      ...{ memoryBytes: memoryMb * MIB, diskBytes: diskMb * MIB },
      ...(body.network && { network: toNetwork(body.network) }),
    },
    ttl: Object.fromEntries(given),
    queueMs: ms(body.queueSeconds),
  };
}

export const ExecBody = z.strictObject({
  /** A text is run by `sh -c`; a list is a program and its arguments. */
  command,
  cwd: z.string().optional(),
  env: variables.optional(),
  user: user.optional(),
  stdin: z.string().optional(),
  /** Instead of `stdin`, for bytes that are no text. */
  stdinBase64: z.base64().optional(),
  /** Null: no limit. */
  timeoutSeconds: seconds.nullable().default(60),
  /** Of each stream; both ends are kept. */
  maxOutputBytes: z
    .number()
    .int()
    .min(1)
    .max(16 * MIB)
    .default(64 << 10),
  /** Of the output in the answer. */
  encoding: z.enum(["text", "base64"]).default("text"),
});

export const CommandBody = ExecBody.omit({ maxOutputBytes: true, encoding: true }).extend({
  timeoutSeconds: seconds.nullable().default(null),
  /** What the log file may hold. */
  maxLogBytes: z
    .number()
    .int()
    .min(0)
    .max(1024 * MIB)
    .default(16 * MIB),
});

export const ShellBody = z.strictObject({
  name: z.string().min(1).max(64).default("default"),
  cwd: z.string().optional(),
  env: variables.optional(),
  user: user.optional(),
});

export const RunBody = z.strictObject({
  command: z.string(),
  timeoutSeconds: seconds.nullable().default(60),
  maxOutputBytes: ExecBody.shape.maxOutputBytes,
  encoding: ExecBody.shape.encoding,
  /** Look at the syntax first and run nothing when it is wrong. */
  checkSyntax: z.boolean().default(true),
  /** On a terminal; further texts are input of the program while it runs. */
  interactive: z.boolean().default(false),
  /** Regular expressions; the answer comes when one of them is shown. */
  expect: z.array(z.string()).max(16).default([]),
});

export const TerminalBody = z.strictObject({
  command: command.default(["bash", "-i"]),
  cwd: z.string().optional(),
  env: variables.optional(),
  user: user.optional(),
  rows: z.number().int().min(1).max(1000).default(24),
  columns: z.number().int().min(1).max(1000).default(80),
});

export const ForkBody = z.strictObject({ id: z.string().optional() });
export const SizeBody = TerminalBody.pick({ rows: true, columns: true });
export const ChangeBody = z.strictObject({
  path: z.string().min(1),
  mode: z
    .string()
    .regex(/^[0-7]{3,4}$/, "octal, such as 755")
    .optional(),
  owner: z.string().min(1).max(100).optional(),
  recursive: z.boolean().default(false),
});

/** Program and arguments. */
export function programOf(value: string | readonly string[]): string[] {
  return typeof value === "string" ? ["sh", "-c", value] : [...value];
}

export function limitMs(value: number | null): number {
  return value === null ? Number.POSITIVE_INFINITY : Math.max(1, value * 1000);
}

export function inputOf(body: {
  stdin?: string | undefined;
  stdinBase64?: string | undefined;
}): Uint8Array | undefined {
  if (body.stdinBase64 !== undefined) return Buffer.from(body.stdinBase64, "base64");
  return body.stdin === undefined ? undefined : new TextEncoder().encode(body.stdin);
}

export function outputText(bytes: Uint8Array, encoding: "text" | "base64"): string {
  return encoding === "text" ? new TextDecoder().decode(bytes) : Buffer.from(bytes).toString("base64");
}

const iso = (at: number | undefined) => (at === undefined || !Number.isFinite(at) ? null : new Date(at).toISOString());

export function describeSandbox(service: SandboxService, sandbox: ManagedSandbox) {
  const { id, state, spec, createdAt, startedAt, stoppedAt, life } = sandbox;
  const { profile, image, workdir, cpus, memoryBytes, diskBytes, pids } = spec.environment;
  const expiry = service.expiryOf(sandbox);
  return {
    id,
    state,
    reason: sandbox.lastReason,
    actions: possibleEvents(state).filter((event) => !HAPPENINGS.has(event)),
    ...{
      profile,
      image: image ?? null,
      workdir,
      cpus,
      memoryMb: memoryBytes / MIB,
      diskMb: diskBytes / MIB,
      processes: pids,
    },
    labels: spec.labels,
    network: spec.environment.network ?? NO_NETWORK,
    /** How many the guards raised. */
    alerts: sandbox.guard.alerts.length,
    isolation: service.provider.isolation,
    createdAt: iso(createdAt),
    startedAt: iso(startedAt),
    stoppedAt: iso(stoppedAt),
    archivedAt: iso(sandbox.archivedAt),
    /** When and how it ends by itself. */
    expiresAt: iso(expiry?.at),
    expiresBy: expiry?.how ?? null,
    history: life.history.map(({ at, ...step }) => ({ ...step, at: iso(at) })),
  };
}

export function describeCommand(backgroundCommand: BackgroundCommand) {
  const { id, state, request, logPath, startedAt, endedAt, result, error } = backgroundCommand;
  return {
    ...{ id, state, command: request.argv, logPath },
    startedAt: iso(startedAt),
    endedAt: iso(endedAt),
    exitCode: result?.exitCode ?? null,
    status: result?.status ?? null,
    outputBytes: result?.outputBytes ?? null,
    error: error ?? null,
  };
}
