/** The HTTP service: what the store knows, live events, the page. Reading is free, changing needs the token. */

import { type Context, Hono } from "hono";
import { z } from "zod";
import type { EventHub } from "../core/events.ts";
import { SPLITS } from "../core/types.ts";
import { VERSION } from "../core/version.ts";
import type { Wait } from "../core/waits.ts";
import type { AuditFilter, EpisodeDetail, EpisodeFilter } from "../store/records.ts";
import type { Store } from "../store/store.ts";
import { addAlerts } from "./alerts.ts";
import { eventStream } from "./event-stream.ts";
import { requireLocalHost, requireToken, securityHeaders } from "./guards.ts";
import { describeHttpError, errorBody, HttpError } from "./http-error.ts";
import { TokenTexts } from "./token-texts.ts";

export interface AppOptions {
  readonly store: Store;
  /** Events of the run in this process, if there is one. */
  readonly hub?: EventHub;
  readonly token: string;
  /** Ends a run of this process and says so; runs of other processes get a signal. */
  readonly stopRun?: (runId: string) => boolean;
  /** Who waits for what, in a run of this process. */
  readonly listWaits?: (runId: string) => readonly Wait[] | undefined;
  /** Host names besides those of this machine. */
  readonly hosts?: readonly string[];
}

const EpisodeQuery = z.object({
  run: z.string().optional(),
  step: z.coerce.number().int().min(0).optional(),
  family: z.string().optional(),
  split: z.enum(["train", "dev", "heldout"]).optional(),
  purpose: z.enum(["train", "eval", "greedy"]).optional(),
  solved: z.enum(["true", "false"]).optional(),
  limit: z.coerce.number().int().min(1).max(500).default(50),
  cursor: z.string().regex(/^\d+$/).optional(),
  order: z.enum(["newest", "oldest"]).default("newest"),
});

const AuditQuery = z.object({
  run: z.string().optional(),
  episode: z.string().optional(),
  verdict: z.enum(["allowed", "denied", "failed"]).optional(),
  connections: z.enum(["true", "false"]).default("false"),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
  cursor: z.string().regex(/^\d+$/).optional(),
});

const MetricsQuery = z.object({
  since: z.coerce.number().int().optional(),
  names: z.string().optional(),
});

const EventsQuery = z.object({
  run: z.string().optional(),
  since: z.coerce.number().int().min(0).optional(),
});

/** Readers of events at once: each holds a connection and asks the store now and then. */
const MAX_STREAMS = 64;

export function createApp(options: AppOptions): Hono {
  const app = new Hono();
  app.use(securityHeaders);
  app.use(requireLocalHost(options.hosts));
  app.onError((error, c) => {
    const { status, body } = describeHttpError(error);
    return c.json(body, status as 500);
  });
  app.notFound((c) => c.json(errorBody("not_found", `there is no ${c.req.method} ${c.req.path}`), 404));
  addRuns(app, options);
  addEpisodes(app, options);
  addEvents(app, options);
  addAlerts(app, options, parseQuery);
  addPage(app);
  return app;
}

function addRuns(app: Hono, { store, token, hub, stopRun, listWaits }: AppOptions): void {
  const startedAt = Date.now();
  app.get("/v1/health", (c) =>
    c.json({
      status: "ok",
      version: VERSION,
      pid: process.pid,
      uptimeSeconds: (Date.now() - startedAt) / 1000,
      store: store.path,
      live: hub !== undefined,
    }),
  );
  app.get("/v1/runs", async (c) => c.json({ runs: await store.listRuns() }));
  app.get("/v1/runs/:id", async (c) => {
    const run = await store.getRun(c.req.param("id"));
    const [evaluations, checkpoints, configuration] = await Promise.all([
      store.readEvaluations(run.id),
      store.readCheckpoints(run.id),
      store.readConfiguration(run.configHash),
    ]);
    return c.json({ run, evaluations, checkpoints, configuration });
  });
  app.get("/v1/runs/:id/metrics", async (c) => {
    const runId = await store.resolveRun(c.req.param("id"));
    const { since, names } = parseQuery(c, MetricsQuery);
    const filter = {
      ...(since === undefined ? {} : { sinceStep: since }),
      ...(names === undefined ? {} : { names: names.split(",") }),
    };
    // Megabytes after some thousand steps: made a page at a time, so that the run goes on in between.
    const pages: string[] = [];
    for await (const rows of store.metrics(runId, filter)) pages.push(rows.map((row) => JSON.stringify(row)).join(","));
    const body = `{"runId":${JSON.stringify(runId)},"rows":[${pages.join(",")}]}`;
    return c.body(body, 200, { "Content-Type": "application/json" });
  });
  app.get("/v1/runs/:id/waiting", async (c) => {
    const runId = await store.resolveRun(c.req.param("id"));
    const waiting = listWaits?.(runId);
    if (waiting === undefined) {
      throw new HttpError(409, "not_here", `this process does not work on run ${runId}`, "ask the run's own service");
    }
    return c.json({ runId, at: Date.now(), waiting });
  });
  app.post("/v1/runs/:id/stop", requireToken(token), async (c) => {
    const run = await store.getRun(c.req.param("id"));
    if (stopRun?.(run.id) !== true) await signalRun(store, run.id);
    return c.json({ runId: run.id, stopping: true }, 202);
  });
}

/** The first interrupt makes a run save itself and end. */
async function signalRun(store: Store, runId: string): Promise<void> {
  const pid = await store.findProcess(runId);
  if (pid === undefined) throw new HttpError(409, "not_running", `run ${runId} is not running`);
  process.kill(pid, "SIGINT");
}

function addEpisodes(app: Hono, { store }: AppOptions): void {
  const texts = new TokenTexts(store);
  app.get("/v1/episodes", async (c) => {
    const query = parseQuery(c, EpisodeQuery);
    const { run, step, family, split, purpose, solved, limit, cursor, order } = query;
    const filter: EpisodeFilter = {
      ...(run === undefined ? {} : { runId: await store.resolveRun(run) }),
      ...(step === undefined ? {} : { step }),
      ...(family === undefined ? {} : { family }),
      ...(split === undefined ? {} : { split }),
      ...(purpose === undefined ? {} : { purpose }),
      ...(solved === undefined ? {} : { solved: solved === "true" }),
    };
    const page = { limit, newestFirst: order === "newest", ...(cursor === undefined ? {} : { cursor }) };
    return c.json(await store.readEpisodes(filter, page));
  });
  // Ids hold slashes; both /v1/episodes/a/b and /v1/episodes/a%2Fb name the episode a/b.
  app.get("/v1/episodes/:id{.+}", async (c) => {
    const id = c.req.param("id");
    const episode = await store.readEpisode(id);
    if (episode === undefined) throw new HttpError(404, "not_found", `there is no episode ${id}`);
    return c.json(toJson(episode, await texts.read(episode.runId, episode.tokens.ids)));
  });
  app.get("/v1/audit", async (c) => {
    const { run, episode, verdict, connections, limit, cursor } = parseQuery(c, AuditQuery);
    const filter: AuditFilter = {
      ...(run === undefined ? {} : { runId: await store.resolveRun(run) }),
      ...(episode === undefined ? {} : { episode }),
      ...(verdict === undefined ? {} : { verdict }),
      connections: connections === "true",
    };
    return c.json(await store.readAudit(filter, { limit, ...(cursor === undefined ? {} : { cursor }) }));
  });
  app.get("/v1/tasks", async (c) => {
    const run = c.req.query("run");
    const families = await store.readFamilies(run === undefined ? undefined : await store.resolveRun(run));
    return c.json({ splits: SPLITS, families });
  });
}

/** The episode with its token arrays as plain lists. */
function toJson({ tokens, ...episode }: EpisodeDetail, texts: readonly string[] | undefined) {
  const { ids, mask, logprobs, logprobsT1, versions, kvOldest, turnIds } = tokens;
  const lists = { ids, mask, logprobs, logprobsT1, versions, kvOldest, turnIds };
  const plain = Object.fromEntries(Object.entries(lists).map(([name, values]) => [name, Array.from(values)]));
  return { ...episode, tokens: { ...plain, texts: texts ?? null } };
}

function addEvents(app: Hono, { store, hub }: AppOptions): void {
  let streams = 0;
  app.get("/v1/events", async (c) => {
    const { run, since } = parseQuery(c, EventsQuery);
    const runId = run === undefined ? undefined : await store.resolveRun(run);
    if (streams >= MAX_STREAMS) {
      throw new HttpError(503, "too_many_readers", `${MAX_STREAMS} readers follow the events already`, "close some");
    }
    const resumed = Number.parseInt(c.req.header("last-event-id") ?? "", 10);
    const sinceId = since ?? (Number.isSafeInteger(resumed) ? resumed : await store.lastEventId());
    streams++;
    const body = eventStream({
      store,
      sinceId,
      signal: c.req.raw.signal,
      onEnd: () => streams--,
      ...(hub === undefined ? {} : { hub }),
      ...(runId === undefined ? {} : { runId }),
    });
    return c.body(body, 200, { "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no" });
  });
}

function addPage(app: Hono): void {
  // The page is built or unpacked when somebody looks at it, not when a run starts.
  const asset = (name: "html" | "script" | "style", type: string) => async (c: Context) => {
    const { page } = await import("../web/page.ts");
    return c.body(page[name], 200, { "Content-Type": type, "Cache-Control": "no-cache" });
  };
  app.get("/", asset("html", "text/html; charset=utf-8"));
  app.get("/app.js", asset("script", "text/javascript; charset=utf-8"));
  app.get("/app.css", asset("style", "text/css; charset=utf-8"));
}

function parseQuery<T>(c: Context, schema: z.ZodType<T>): T {
  const result = schema.safeParse(c.req.query());
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new HttpError(400, "bad_request", `${issue?.path.join(".") || "query"}: ${issue?.message ?? "not valid"}`);
}
