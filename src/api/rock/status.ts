/** A sandbox as ROCK describes it (rl-rock 1.11, `rock/admin/proto/response.py`). */

import { hostname } from "node:os";
import { VERSION } from "../../core/version.ts";
import type { SandboxEvent, SandboxState } from "../../sandbox/service/lifecycle.ts";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";

const LOOPBACK = "127.0.0.1";
const NO_FAILURE = { code: null, exit_code: null, failure_reason: null };

/** ROCK knows no pause; what was paused still runs. What failed while it started stays pending, with the phase that failed. */
const STATES: Readonly<Record<SandboxState, string>> = {
  pending: "pending",
  running: "running",
  paused: "running",
  stopped: "stopped",
  archiving: "archiving",
  archived: "archived",
  failed: "stopped",
  deleted: "deleted",
};
const EVENTS: Readonly<Record<SandboxEvent, string>> = {
  ready: "alive",
  fail: "stop",
  pause: "pause",
  resume: "resume",
  stop: "stop",
  restart: "restart",
  delete: "delete",
  archive: "archive",
  archive_done: "archive_done",
  archive_failed: "archive_failed",
  restore: "restore",
  restore_failed: "restore_failed",
};

export function rockState(sandbox: ManagedSandbox): string {
  return failedToStart(sandbox) ? "pending" : STATES[sandbox.state];
}

function failedToStart(sandbox: ManagedSandbox): boolean {
  return sandbox.state === "failed" && sandbox.startedAt === undefined;
}

/** Whether `get_status` tells of it without being asked for all states. */
export function isShownByDefault(sandbox: ManagedSandbox): boolean {
  return ["pending", "running"].includes(rockState(sandbox));
}

function sizeText(bytes: number): string {
  return bytes % 2 ** 30 === 0 ? `${bytes / 2 ** 30}g` : `${Math.floor(bytes / 2 ** 20)}m`;
}

function iso(ms: number | undefined): string | null {
  return ms === undefined ? null : new Date(ms).toISOString().replace(/\.\d+Z$/, "+00:00");
}

/** What `start` and `restart` answer. */
export function startResult(sandbox: ManagedSandbox) {
  const { environment } = sandbox.spec;
  const disk = sizeText(environment.diskBytes);
  return {
    ...NO_FAILURE,
    sandbox_id: sandbox.id,
    host_name: hostname(),
    host_ip: LOOPBACK,
    cpus: environment.cpus,
    memory: sizeText(environment.memoryBytes),
    disk,
    disk_limit_rootfs: disk,
  };
}

function phases(sandbox: ManagedSandbox) {
  const done = { status: "success", message: "success" };
  if (failedToStart(sandbox))
    return { image_pull: done, docker_run: { status: "failed", message: sandbox.lastReason } };
  if (sandbox.state === "pending") return { image_pull: done, docker_run: { status: "waiting", message: "waiting" } };
  return { image_pull: done, docker_run: done };
}

/** What `get_status` answers. */
export function statusResult(service: SandboxService, sandbox: ManagedSandbox) {
  const { id, spec, state, startedAt, stoppedAt, createdAt } = sandbox;
  const { environment, labels } = spec;
  const ends = service.expiryOf(sandbox);
  const expiry = ends?.at;
  const live = state === "running" || state === "paused";
  const disk = sizeText(environment.diskBytes);
  return {
    sandbox_id: id,
    status: phases(sandbox),
    state: rockState(sandbox),
    port_mapping: {},
    host_name: hostname(),
    host_ip: LOOPBACK,
    is_alive: state === "running",
    image: labels.image ?? environment.profile,
    gateway_version: `ale ${VERSION}`,
    swe_rex_version: null,
    user_id: labels.user_id ?? null,
    experiment_id: labels.experiment_id ?? null,
    namespace: labels.namespace ?? null,
    cpus: environment.cpus,
    memory: sizeText(environment.memoryBytes),
    num_gpus: null,
    accelerator_type: null,
    disk,
    disk_limit_rootfs: disk,
    start_time: iso(startedAt),
    stop_time: iso(stoppedAt),
    create_time: iso(createdAt),
    archive_time: iso(sandbox.archivedAt),
    delete_time: state === "deleted" ? iso(stoppedAt) : null,
    auto_stop_time: live ? iso(expiry) : null,
    auto_archive_time: ends?.how === "archived" ? iso(expiry) : null,
    auto_delete_time: ends?.how === "kept long enough" && state !== "failed" ? iso(expiry) : null,
    state_history: sandbox.life.history.map(({ from, to, event, at }) => ({
      from_state: STATES[from],
      to_state: STATES[to],
      event: EVENTS[event],
      timestamp: iso(at),
    })),
  };
}

export { NO_FAILURE };
