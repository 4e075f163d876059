/** What an episode ran and connected to, for the audit log. */

import type { Sandbox } from "../core/ports.ts";
import type { AuditEntry, ConnectionRecord, ExecRecord, Turn } from "../core/types.ts";

/** Connections of one episode, of each kind, that are told one by one; a flood of more says no more. */
const MAX_CONNECTIONS = 1000;

type Found = (ExecRecord | ConnectionRecord) & Pick<AuditEntry, "phase" | "sandbox">;

export class EpisodeAudit {
  readonly #found: Found[] = [];
  readonly #connections = new Map<ConnectionRecord["kind"], number>();
  /** The agent's sandbox. */
  #agent = "";

  /** Notes every connection of a sandbox from now on, until it ends. */
  watch(sandbox: Sandbox, phase: AuditEntry["phase"]): void {
    if (phase === "agent") this.#agent = sandbox.id;
    sandbox.network?.onConnection((record) => {
      const count = this.#connections.get(record.kind) ?? 0;
      this.#connections.set(record.kind, count + 1);
      if (count < MAX_CONNECTIONS) this.#found.push({ ...record, phase, sandbox: sandbox.id });
    });
  }

  /** Notes that the tests ran. */
  tested(sandbox: string, record: Omit<ExecRecord, "kind">): void {
    this.#found.push({ ...record, kind: "exec", phase: "verifier", sandbox });
  }

  /** In order of time. Times of turns count from `startedAt`, when the agent began. */
  entries(turns: readonly Turn[], startedAt: number): AuditEntry[] {
    const spans = turns.map(({ index, generatedMs, observedMs }) => ({
      turn: index,
      begin: startedAt + generatedMs,
      end: startedAt + observedMs,
    }));
    const commands = turns.flatMap((turn): AuditEntry[] => {
      if (turn.command === "") return [];
      const { index, exitCode, generatedMs, observedMs } = turn;
      const record = { kind: "exec", at: Math.round(startedAt + generatedMs), ms: observedMs - generatedMs } as const;
      return [{ ...record, command: null, exitCode, phase: "agent", turn: index, sandbox: this.#agent }];
    });
    const others = this.#found.map((entry): AuditEntry => {
      // What runs on in the background belongs to the last turn that had begun.
      const turn =
        entry.phase === "agent" ? spans.findLast(({ begin }) => entry.at >= Math.floor(begin))?.turn : undefined;
      return { ...entry, turn: turn ?? null };
    });
    return [...commands, ...others].sort((a, b) => a.at - b.at);
  }
}
