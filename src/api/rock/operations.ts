/**
 * ROCK's maintenance (rl-rock 1.11, `rock/admin/entrypoints/admin_ops_api.py`): sets of tasks that clean up on workers. Here
 * there are neither workers nor such tasks: what a sandbox leaves goes with it. So a set is answered as by a service that has
 * none: rejected, and none is found by an id.
 */

import type { Hono } from "hono";
import { z } from "zod";
import { answer, parseBody, success } from "./envelope.ts";

const names = z.array(z.string()).nullish().default(null);
const TaskSetSpec = z.object({ taskTypes: names, targetWorkers: names });
const NOTHING = { assignedPod: "", active: 0, succeeded: 0, failed: 0, startTime: null, completionTime: null };

function taskSet(
  tasksetId: string,
  creationTimestamp: number,
  spec: object,
  phase: string,
  conditions: object[] | null,
) {
  return { metadata: { tasksetId, creationTimestamp }, spec, status: { phase, ...NOTHING, conditions }, tasks: null };
}

export function addOperations(app: Hono): void {
  app.post("/ops/tasksets", (c) =>
    answer(c, "create taskset failed", async () => {
      const { spec } = await parseBody(c, z.object({ spec: TaskSetSpec.prefault({}) }));
      const conditions = [{ type: "Rejected", rejectedTaskTypes: spec.taskTypes ?? [] }];
      return success(taskSet("", Date.now() / 1000, spec, "Rejected", conditions), "ok");
    }),
  );
  app.get("/ops/tasksets/:id", (c) =>
    answer(c, "get taskset failed", async () =>
      success(taskSet(c.req.param("id"), 0, TaskSetSpec.parse({}), "NotFound", null), "ok"),
    ),
  );
}
