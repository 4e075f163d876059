/** Puts the sandboxes' surfaces beside the others: Ale's own, ROCK's, and GEM's. */

import { Hono, type MiddlewareHandler } from "hono";
import type { ImageStore } from "../../images/image-store.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { GemEnvironments } from "../gem/environments.ts";
import { gemRoutes } from "../gem/routes.ts";
import { requireSameSite, requireToken } from "../guards.ts";
import { e2bRoutes } from "../rock/e2b.ts";
import { EnvHub, envHubRoutes } from "../rock/envhub.ts";
import { rockRoutes } from "../rock/routes.ts";
import { ImageNames } from "../rock/start-request.ts";
import type { SocketHandler } from "../serve.ts";
import { addCommandRoutes } from "./command-routes.ts";
import { addFileRoutes } from "./file-routes.ts";
import { addSnapshotRoutes, imageRoutes, snapshotRoutes } from "./image-routes.ts";
import { addLifeRoutes } from "./life-routes.ts";
import { addNetworkRoutes } from "./network-routes.ts";

export interface SandboxSurface {
  readonly service: SandboxService;
  readonly token: string;
  /** Which profile stands for an image that ROCK's clients name; `*` is any. */
  readonly images?: ReadonlyMap<string, string>;
  /** Actions until a GEM episode is truncated. Default 50. */
  readonly gemMaxTurns?: number;
  /** Where ROCK's EnvHub keeps its list; omitted: there is none. */
  readonly envHubFile?: string;
  /** The images that sandboxes can be made from, and committed to. */
  readonly imageStore?: ImageStore;
}

const MAX_TURNS = 50;

/** Commands may take long without a byte; limits of time are theirs. */
const withoutIdleLimit: MiddlewareHandler = async (c, next) => {
  const server = c.env as Partial<Bun.Server<SocketHandler>> | undefined;
  server?.timeout?.(c.req.raw, 0);
  await next();
};

/** Everything here needs the token, reading too: what is in a sandbox is its owner's. */
export function mountSandboxes(app: Hono, surface: SandboxSurface): void {
  const { service, token, images, gemMaxTurns, imageStore, envHubFile } = surface;
  const guard = requireToken(token);
  const folders = ["/v1/sandboxes", "/v1/snapshots", "/v1/images"].flatMap((path) => [path, `${path}/*`]);
  const rock = ["/apis/*", "/sandboxes", "/sandboxes/*", "/v2/sandboxes", "/env/*"];
  for (const path of [...folders, ...rock]) app.use(path, requireSameSite, guard, withoutIdleLimit);
  const native = new Hono();
  addLifeRoutes(native, service, imageStore);
  addSnapshotRoutes(native, service, imageStore);
  addCommandRoutes(native, service);
  addFileRoutes(native, service);
  addNetworkRoutes(native, service);
  app.route("/v1/sandboxes", native);
  app.route("/v1/snapshots", snapshotRoutes(service, imageStore));
  if (imageStore !== undefined) app.route("/v1/images", imageRoutes(service, imageStore));
  const imageNames = new ImageNames(images, imageStore);
  app.route("/apis/envs/sandbox/v1", rockRoutes({ service, images: imageNames, imageStore }));
  app.route("/", e2bRoutes({ service, images: imageNames }));
  if (envHubFile !== undefined) app.route("/", envHubRoutes(new EnvHub(envHubFile)));
  const environments = new GemEnvironments({ service, maxTurns: gemMaxTurns ?? MAX_TURNS });
  app.route("/apis/v1/envs/gem", gemRoutes(environments));
}
