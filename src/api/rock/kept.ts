/** ROCK's archives and images of sandboxes (rl-rock 1.11, `rock/admin/entrypoints/sandbox_api.py`, `sandbox_proxy_api.py`). */

import type { Hono } from "hono";
import { z } from "zod";
import { errorMessage } from "../../core/errors.ts";
import { commitImage } from "../../images/commit-image.ts";
import type { ImageStore } from "../../images/image-store.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { answer, Code, nonBlank, parseBody, RockError, success } from "./envelope.ts";
import { rockState } from "./status.ts";

/** Usually a commit takes milliseconds, and whoever sees it running looks again only after seconds. */
const LOOK_MS = 2000;

const CommitRequest = z.object({
  sandbox_id: nonBlank,
  image_tag: nonBlank,
  /** Of a registry; nothing is pushed here. */
  username: z.string().default(""),
  password: z.string().default(""),
});

/** As ROCK's `CommitStatusResponse`. */
interface CommitStatus {
  readonly sandbox_id: string;
  readonly image_tag: string;
  readonly phase: "RUNNING" | "SUCCEEDED" | "FAILED";
  readonly started_at: string;
  readonly completed_at: string | null;
  readonly exit_code: number | null;
  readonly failed_stage: string | null;
  readonly error_code: "COMMIT_FAILED" | null;
  readonly error_message: string | null;
}

export function archivesDisabled(): RockError {
  return new RockError(Code.badRequest, "archive feature is disabled");
}

export function addKept(app: Hono, service: SandboxService, images: ImageStore | undefined): void {
  app.post("/sandboxes/:id/archive", (c) =>
    answer(c, "archive sandbox failed", async () => {
      if (!service.canArchive) throw archivesDisabled();
      const id = c.req.param("id");
      const sandbox = service.find(id);
      if (sandbox === undefined) throw new RockError(Code.badRequest, `sandbox ${id} not found`);
      if (sandbox.state !== "stopped")
        throw new RockError(
          Code.badRequest,
          `Sandbox ${id} cannot be archived: current state is '${rockState(sandbox)}'`,
        );
      // Goes on without the client; what becomes of it is told by the state, and its reason by the history.
      service.archive(id).catch(() => {});
      return success(`${id} archiving`);
    }),
  );
  const commits = new Map<string, CommitStatus>();
  app.post("/commit", (c) =>
    answer(c, "commit sandbox failed", async () => {
      const request = await parseBody(c, CommitRequest);
      if (images === undefined) throw new RockError(Code.badRequest, "this service has no place for images");
      if (commits.get(request.sandbox_id)?.phase === "RUNNING")
        throw new RockError(Code.badRequest, `Sandbox ${request.sandbox_id} is being committed already`);
      const done = commit(service, images, request, commits);
      await Promise.race([done, Bun.sleep(LOOK_MS)]);
      return success(commits.get(request.sandbox_id));
    }),
  );
  app.get("/commit/:id", (c) =>
    answer(c, "get commit status failed", async () => {
      const status = commits.get(c.req.param("id"));
      if (status === undefined) throw new RockError(Code.badRequest, `Sandbox ${c.req.param("id")} was not committed`);
      return success(status);
    }),
  );
}

/** Never rejects: what becomes of it is the status. */
async function commit(
  service: SandboxService,
  images: ImageStore,
  { sandbox_id: id, image_tag: name }: z.infer<typeof CommitRequest>,
  commits: Map<string, CommitStatus>,
): Promise<void> {
  const sandbox = service.find(id);
  if (sandbox === undefined) throw new RockError(Code.badRequest, `Sandbox ${id} not found`);
  const running: CommitStatus = {
    ...{ sandbox_id: id, image_tag: name, phase: "RUNNING", started_at: new Date().toISOString(), completed_at: null },
    ...{ exit_code: null, failed_stage: null, error_code: null, error_message: null },
  };
  commits.set(id, running);
  const { workdir } = sandbox.spec.environment;
  try {
    await service.withFiles(id, (files) => commitImage(images, service.provider, files, { name, source: id, workdir }));
    commits.set(id, { ...running, phase: "SUCCEEDED", completed_at: new Date().toISOString(), exit_code: 0 });
  } catch (error) {
    const failure = {
      failed_stage: "commit",
      error_code: "COMMIT_FAILED",
      error_message: errorMessage(error),
    } as const;
    commits.set(id, { ...running, ...failure, phase: "FAILED", completed_at: new Date().toISOString(), exit_code: 1 });
  }
}
