/** ROCK's request for a sandbox (rl-rock 1.11, `rock/admin/proto/request.py`), and what it means here. */

import { z } from "zod";
import { type EnvironmentSpec, IMAGE_PROFILE } from "../../core/types.ts";
import type { ImageStore } from "../../images/image-store.ts";
import { listProfiles } from "../../sandbox/profile-texts.ts";
import { largestSandbox } from "../../sandbox/service/capacity.ts";
import type { CreateRequest } from "../../sandbox/service/requests.ts";
import { workdirOf } from "../sandboxes/image-routes.ts";
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

/** What stands for an image: what the operator said, the profile or the image of that name, or what stands for any. */
export class ImageNames {
  readonly #names: ReadonlyMap<string, string>;
  readonly #store: ImageStore | undefined;

  /** Name in a request to that of a profile or an image; `*` is any. */
  constructor(names: ReadonlyMap<string, string> = new Map(), store?: ImageStore) {
    this.#names = names;
    this.#store = store;
  }

  /** @throws RockError when there is nothing of that name. */
  async find(image: string): Promise<RootName> {
    const said = this.#names.get(image);
    const any = this.#names.get("*");
    const found =
      (await this.#named(said ?? image)) ??
      (said === undefined && any !== undefined ? await this.#named(any) : undefined);
    if (found !== undefined) return found;
    const profiles = listProfiles();
    throw new RockError(
      Code.badRequest,
      `there is no image ${JSON.stringify(image)}; images are imported, not pulled: ale images import FILE NAME. There ` +
        `are the sandbox profiles ${profiles.join(", ")}; ale serve --sandbox-image '${image}=${profiles[0]}' lets one stand for it`,
    );
  }

  async #named(name: string): Promise<RootName | undefined> {
    if (listProfiles().includes(name)) return { profile: name, workdir: undefined };
    const image = await this.#store?.find(name).catch(() => undefined);
    return image === undefined ? undefined : { profile: IMAGE_PROFILE, image: image.name, workdir: workdirOf(image) };
  }
}

export interface RootName {
  readonly profile: string;
  readonly image?: string;
  /** Where commands begin as the image says. */
  readonly workdir: string | undefined;
}

function refuseWhatIsNotThere(request: StartRequest): void {
  const refuse = (message: string) => {
    throw new RockError(Code.badRequest, message);
  };
  if (request.image_os.toLowerCase() !== "linux") refuse(`image_os ${request.image_os}: sandboxes are Linux only`);
  if ((request.num_gpus ?? 0) > 0 || request.accelerator_type) refuse("sandboxes have no accelerators");
}

/** Limits beyond what the machine has are brought down to it: ROCK's defaults are those of a cluster. */
function environmentOf(request: StartRequest, { profile, image, workdir }: RootName): EnvironmentSpec {
  const most = largestSandbox();
  return {
    ...{ profile, image, workdir: workdir ?? WORKDIR },
    cpus: Math.min(request.limit_cpus ?? request.cpus, most.cpus),
    memoryBytes: Math.min(parseSize("memory", request.memory), most.memoryBytes),
    diskBytes: Math.min(parseSize("disk", request.disk ?? DEFAULT_DISK), most.diskBytes),
    pids: PIDS,
  };
}

/** What a sandbox of this image is when its request says nothing else. */
export function defaultEnvironment(image: string, root: RootName): EnvironmentSpec {
  return environmentOf(StartRequest.parse({ image }), root);
}

/** @throws RockError for what cannot be had. */
export function toCreateRequest(
  request: StartRequest,
  root: RootName,
  header: (name: string) => string | undefined,
): CreateRequest {
  refuseWhatIsNotThere(request);
  const minutes = request.auto_clear_time_minutes;
  const keepSeconds = request.auto_delete_seconds;
  const archiveSeconds = request.auto_archive_seconds;
  const startup = Math.min(request.startup_timeout ?? DEFAULT_STARTUP_SECONDS, MAX_STARTUP_SECONDS);
  return {
    id: request.sandbox_id ?? undefined,
    environment: environmentOf(request, root),
    ttl: {
      ...(minutes === undefined ? {} : { idleMs: minutes * 60_000 }),
      ...(archiveSeconds == null ? {} : { archiveMs: archiveSeconds * 1000 }),
      // As in ROCK: who is archived is not deleted.
      ...(keepSeconds == null || archiveSeconds != null ? {} : { stoppedMs: keepSeconds * 1000 }),
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
