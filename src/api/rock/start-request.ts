/** ROCK's request for a sandbox (rl-rock 1.11, `rock/admin/proto/request.py`), and what it means here. */

import { z } from "zod";
import type { EnvironmentSpec } from "../../core/types.ts";
import { listProfiles } from "../../sandbox/profile-texts.ts";
import { largestSandbox } from "../../sandbox/service/capacity.ts";
import type { CreateRequest } from "../../sandbox/service/sandbox-service.ts";
import { Code, nonBlank, RockError } from "./envelope.ts";

const seconds = z.number().int().min(0).nullish();

export const StartRequest = z.object({
  image: nonBlank,
  image_os: z.string().default("linux"),
  /** Omitted: the service's own time to live, 30 minutes without use. */
  auto_clear_time_minutes: z.number().int().optional(),
  pull: z.enum(["never", "always", "missing"]).default("missing"),
  memory: z.string().default("8g"),
  cpus: z.number().positive().default(2),
  limit_cpus: z.number().positive().nullish(),
  sandbox_id: z.string().nullish(),
  registry_username: z.string().nullish(),
  registry_password: z.string().nullish(),
  startup_timeout: z.number().positive().nullish(),
  use_kata_runtime: z.boolean().default(false),
  auto_archive_seconds: seconds,
  auto_delete_seconds: seconds,
  disk: z.string().nullish().default("50G"),
  num_gpus: z.number().nullish(),
  accelerator_type: z.string().nullish(),
});
export type StartRequest = z.infer<typeof StartRequest>;

const DEFAULT_DISK = "50G";
const DEFAULT_STARTUP_SECONDS = 600;
const MAX_STARTUP_SECONDS = 1800;
const PIDS = 4096;
const WORKDIR = "/work";
const UNITS: Readonly<Record<string, number>> = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

const LOGIN_DEFAULTS = { path: "login.defs", mode: 0o644, content: new TextEncoder().encode("USERGROUPS_ENAB yes\n") };

/** `8g`, `512M`, `50Gi`, `1073741824`. */
export function parseSize(field: string, text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b?)$/i.exec(text.trim()) ?? [];
  const bytes = Number(number) * (UNITS[(unit ?? "").toLowerCase()] ?? Number.NaN);
  if (bytes > 0) return Math.floor(bytes);
  throw new RockError(Code.badRequest, `Invalid ${field} ${JSON.stringify(text)}: write for example 512m or 8g`);
}

/** Which profile stands for an image: the one of that name, or what the operator said. */
export class ImageNames {
  readonly #names: ReadonlyMap<string, string>;

  /** Image to profile; `*` is any image. */
  constructor(names: ReadonlyMap<string, string> = new Map()) {
    this.#names = names;
  }

  profileOf(image: string): string {
    const profiles = listProfiles();
    const profile = this.#names.get(image) ?? (profiles.includes(image) ? image : this.#names.get("*"));
    if (profile !== undefined) return profile;
    throw new RockError(
      Code.badRequest,
      `there is no image ${JSON.stringify(image)}; images cannot be pulled yet. There are the sandbox profiles ` +
        `${profiles.join(", ")}; ale serve --sandbox-image '${image}=${profiles[0]}' lets one stand for it`,
    );
  }
}

function refuseWhatIsNotThere(request: StartRequest): void {
  const refuse = (message: string) => {
    throw new RockError(Code.badRequest, message);
  };
  if (request.image_os.toLowerCase() !== "linux") refuse(`image_os ${request.image_os}: sandboxes are Linux only`);
  if ((request.num_gpus ?? 0) > 0 || request.accelerator_type) refuse("sandboxes have no accelerators");
  if (request.auto_archive_seconds != null) refuse("archive feature is disabled");
}

/** Limits beyond what the machine has are brought down to it: ROCK's defaults are those of a cluster. */
function environmentOf(request: StartRequest, profile: string): EnvironmentSpec {
  const most = largestSandbox();
  return {
    profile,
    workdir: WORKDIR,
    cpus: Math.min(request.limit_cpus ?? request.cpus, most.cpus),
    memoryBytes: Math.min(parseSize("memory", request.memory), most.memoryBytes),
    diskBytes: Math.min(parseSize("disk", request.disk ?? DEFAULT_DISK), most.diskBytes),
    pids: PIDS,
  };
}

/** What a sandbox of this image is when its request says nothing else. */
export function defaultEnvironment(image: string, images: ImageNames): EnvironmentSpec {
  return environmentOf(StartRequest.parse({ image }), images.profileOf(image));
}

/** @throws RockError for what cannot be had. */
export function toCreateRequest(
  request: StartRequest,
  images: ImageNames,
  header: (name: string) => string | undefined,
): CreateRequest {
  refuseWhatIsNotThere(request);
  const minutes = request.auto_clear_time_minutes;
  const keepSeconds = request.auto_delete_seconds;
  const startup = Math.min(request.startup_timeout ?? DEFAULT_STARTUP_SECONDS, MAX_STARTUP_SECONDS);
  return {
    id: request.sandbox_id ?? undefined,
    environment: environmentOf(request, images.profileOf(request.image)),
    ttl: {
      ...(minutes === undefined ? {} : { idleMs: minutes * 60_000 }),
      ...(keepSeconds == null ? {} : { stoppedMs: keepSeconds * 1000 }),
    },
    labels: {
      image: request.image,
      user_id: header("x-user-id") ?? "default",
      experiment_id: header("x-experiment-id") ?? "default",
      namespace: header("x-namespace") ?? "default",
      cluster_name: header("x-cluster") ?? "default",
    },
    queueMs: startup * 1000,
    // `useradd` gives users groups of their own only where this says so; ROCK's SDK relies on it.
    prepare: (sandbox) => sandbox.upload("/etc", [LOGIN_DEFAULTS]),
  };
}
