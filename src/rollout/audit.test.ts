import { expect, test } from "bun:test";
import type { Sandbox, SandboxNetwork } from "../core/ports.ts";
import type { ConnectionRecord, Turn } from "../core/types.ts";
import { EpisodeAudit } from "./audit.ts";

const turn = (index: number, generatedMs: number, observedMs: number, command = "curl x"): Turn => ({
  ...{ index, command, observation: "", exitCode: 0, startedMs: generatedMs - 1, generatedMs, observedMs },
});

test("connections belong to the turn that had begun; the verifier's to none", () => {
  const audit = new EpisodeAudit();
  const tell: ((record: ConnectionRecord) => void)[] = [];
  const network = { onConnection: (listener: (record: ConnectionRecord) => void) => tell.push(listener) };
  for (const [id, phase] of [
    ["s1", "agent"],
    ["s2", "verifier"],
  ] as const)
    audit.watch({ id, network: network as unknown as SandboxNetwork } as Sandbox, phase);
  const record = (at: number): ConnectionRecord => ({
    ...{ kind: "proxy", at, ms: 1, host: "a.example", port: 443, address: null, verdict: "denied", reason: "x" },
    ...{ bytesOut: 0, bytesIn: 0 },
  });
  tell[0]?.(record(1005));
  tell[0]?.(record(1150)); // after turn 0 was observed: it runs on in the background
  tell[0]?.(record(1250));
  tell[1]?.(record(1400));
  audit.tested("s2", { at: 1390, ms: 20, command: "bash /tests/test.sh", exitCode: 0 });
  const entries = audit.entries([turn(0, 100, 120), turn(1, 200, 220), turn(2, 300, 301, "")], 1000);
  expect(entries.map(({ at, kind, turn: index, phase, sandbox }) => [at, kind, index, phase, sandbox])).toEqual([
    [1005, "proxy", null, "agent", "s1"],
    [1100, "exec", 0, "agent", "s1"],
    [1150, "proxy", 0, "agent", "s1"],
    [1200, "exec", 1, "agent", "s1"],
    [1250, "proxy", 1, "agent", "s1"],
    [1390, "exec", null, "verifier", "s2"],
    [1400, "proxy", null, "verifier", "s2"],
  ]);
});
