/** `/v1/alerts`: what the sandbox guards raised, in all runs and in sandboxes of the service. */

import type { Context, Hono } from "hono";
import { z } from "zod";
import { ALERT_KINDS } from "../core/alerts.ts";
import type { Store } from "../store/store.ts";
import { hasToken } from "./guards.ts";

const AlertsQuery = z.object({
  run: z.string().optional(),
  kind: z.enum(ALERT_KINDS).optional(),
  limit: z.coerce.number().int().min(1).max(500).default(100),
  cursor: z
    .string()
    .regex(/^\d{1,15}$/)
    .optional(),
});

/** Reading is free; but what was done in a sandbox of the service is told only to who has the token. */
export function addAlerts(
  app: Hono,
  { store, token }: { readonly store: Store; readonly token: string },
  parseQuery: <T>(c: Context, schema: z.ZodType<T>) => T,
): void {
  app.get("/v1/alerts", async (c) => {
    const { run, kind, limit, cursor } = parseQuery(c, AlertsQuery);
    const filter = {
      ...(run === undefined ? {} : { runId: await store.resolveRun(run) }),
      ...(kind === undefined ? {} : { kind }),
    };
    const page = await store.readAlerts(filter, { limit, ...(cursor === undefined ? {} : { cursor }) });
    const isOwner = hasToken(c, token);
    const alerts = page.alerts.map((alert) =>
      alert.sandbox === null || isOwner ? alert : { ...alert, evidence: null },
    );
    return c.json({ ...page, alerts });
  });
}
