/**
 * Mining: known programs and the protocol's words in command lines; and load, a process that takes the sandbox's processors
 * for minutes and neither waits nor writes, as no compiler, test or training loop that logs does.
 */

import type { Observation, SeenProcess } from "./observation.ts";
import type { SimpleCommand } from "./shell-words.ts";

const MINERS = new Set(
  "xmrig xmr-stak xmr-stak-rx cpuminer minerd ccminer cgminer bfgminer sgminer ethminer nbminer t-rex lolminer lolMiner phoenixminer PhoenixMiner teamredminer gminer nanominer srbminer SRBMiner-MULTI cpuminer-multi cpuminer-opt wildrig randomx-miner nheqminer ewbf-miner".split(
    " ",
  ),
);
const POOL =
  /stratum(?:\+(?:tcp|ssl|tls|udp)|[12](?:\+\w+)?)?:\/\/|--(?:donate-level|coin=|algo=(?:rx|cn|randomx|ethash|kawpow|argon2))|\bmining\.(?:subscribe|authorize)\b/i;
/** What only shows or looks for text. */
const READERS = new Set("echo printf grep egrep fgrep rg sed awk cat less head tail tee ls find git".split(" "));

/** Why the command is one, or `undefined`. */
export function miningIn({ program, args }: SimpleCommand): string | undefined {
  if (READERS.has(program)) return undefined;
  const isQuestion = args.length > 0 && args.every((arg) => /^(?:-h|--help|-V|--version)$/.test(arg));
  if (MINERS.has(program) && !isQuestion) return `${program} mines`;
  const word = args.find((arg) => POOL.test(arg));
  return word === undefined ? undefined : `${program} is told of a mining pool: ${word}`;
}

export interface MiningSettings {
  readonly share: number;
  readonly windowSeconds: number;
  readonly switchesPerSecond: number;
  readonly writtenPerSecond: number;
}

/** Load over one window after the other, of the processes that last through it. */
export class LoadWatch {
  #first: Pick<Observation, "at" | "processes"> | undefined;

  /** @param cpus that the sandbox may use. */
  look(now: Pick<Observation, "at" | "processes">, cpus: number, settings: MiningSettings): string | undefined {
    const first = this.#first;
    const seconds = first === undefined ? 0 : (now.at - first.at) / 1000;
    if (first === undefined || seconds >= settings.windowSeconds) this.#first = now;
    if (first === undefined || seconds < settings.windowSeconds) return undefined;
    const before = new Map(first.processes.map((process) => [keyOf(process), process]));
    const quiet = now.processes.flatMap((process) => {
      const old = before.get(keyOf(process));
      return old !== undefined && isQuiet(old, process, seconds, settings)
        ? [{ process, share: (process.cpuSeconds - old.cpuSeconds) / seconds / cpus }]
        : [];
    });
    const total = quiet.reduce((sum, { share }) => sum + share, 0);
    const [largest] = quiet.toSorted((a, b) => b.share - a.share);
    if (largest === undefined || total < settings.share) return undefined;
    const who = largest.process.argv.join(" ").slice(0, 120);
    return `${Math.round(total * 100)} % of the processors for ${Math.round(seconds)} s without waiting or writing: ${who}`;
  }
}

function isQuiet(old: SeenProcess, process: SeenProcess, seconds: number, settings: MiningSettings): boolean {
  const switches = (process.switches - old.switches) / seconds;
  const written = ((process.written ?? 0) - (old.written ?? 0)) / seconds;
  return switches <= settings.switchesPerSecond && written <= settings.writtenPerSecond;
}

function keyOf({ pid, start }: SeenProcess): string {
  return `${pid}/${start}`;
}
