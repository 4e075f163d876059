/** From a sandbox of the service to what its archive says of it, and back. */

import type { Alert } from "../../core/alerts.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import type { ArchiveRecord } from "./archives.ts";
import type { Clock } from "./clock.ts";
import { transition } from "./lifecycle.ts";
import { ManagedSandbox, type TimeToLive } from "./managed-sandbox.ts";

/** One that an earlier service archived. */
export function fromRecord(
  record: ArchiveRecord,
  clock: Clock,
  onAlert: (alert: Alert, sandbox: ManagedSandbox) => void,
): ManagedSandbox {
  const { id, labels, root, history, createdAt, archivedAt, isGraded } = record;
  const environment = record.environment as EnvironmentSpec;
  const ttl = Object.fromEntries(
    Object.entries(record.ttl).map(([name, ms]) => [name, ms ?? Number.POSITIVE_INFINITY]),
  );
  const spec = { id, environment, labels, ttl: ttl as unknown as TimeToLive, isGraded };
  const past = { createdAt, life: { state: "archived", history } } as const;
  const sandbox: ManagedSandbox = new ManagedSandbox(spec, clock, (alert) => onAlert(alert, sandbox), past);
  sandbox.root = root;
  sandbox.archivedAt = archivedAt;
  return sandbox;
}

/** For the moment its archive is written. */
export function toRecord(
  { spec, life, createdAt }: ManagedSandbox,
  archivedAt: number,
  reason: string,
): Omit<ArchiveRecord, "root" | "version"> {
  const { id, labels, ttl, isGraded } = spec;
  const environment = spec.environment as ArchiveRecord["environment"];
  const { idleMs, totalMs, stoppedMs, archiveMs, archivedMs } = ttl;
  const { history } = transition(id, life, "archive_done", archivedAt, reason);
  const limited = (ms: number | undefined) => (ms !== undefined && Number.isFinite(ms) ? ms : null);
  return {
    ...{ id, environment, isGraded, labels: { ...labels }, history: [...history], createdAt, archivedAt },
    ttl: {
      ...{ idleMs: limited(idleMs), totalMs: limited(totalMs), stoppedMs: limited(stoppedMs) },
      ...{ archiveMs: limited(archiveMs), archivedMs: limited(archivedMs) },
    },
  };
}
