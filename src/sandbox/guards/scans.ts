/** Scans: many hosts, or many ports of a host, tried within a short time. */

import { isIP } from "node:net";
import type { ConnectionRecord } from "../../core/types.ts";
import { isLoopback } from "./observation.ts";
import type { SimpleCommand } from "./shell-words.ts";

const SCANNERS = new Set(
  "nmap masscan zmap zgrab zgrab2 unicornscan rustscan naabu hping hping3 fping arp-scan netdiscover nbtscan".split(
    " ",
  ),
);

/** Why the command is one, or `undefined`. */
export function scanIn({ program, args }: SimpleCommand): string | undefined {
  if (SCANNERS.has(program)) {
    const isQuestion = args.length === 0 || args.every((arg) => /^(?:-h|--help|-V|--version|--iflist)$/.test(arg));
    const targets = args.filter((arg) => !arg.startsWith("-"));
    const onlyItself = targets.length > 0 && targets.every((target) => isLoopback(target) || /^[\d,-]+$/.test(target));
    return isQuestion || onlyItself ? undefined : `${program} scans`;
  }
  if (!/^(?:nc|ncat|netcat)(?:\.\w+)?$/.test(program)) return undefined;
  const isProbe = args.some((arg) => /^-[A-Za-z]*z/.test(arg));
  const range = args.find((arg) => /^\d+-\d+$/.test(arg));
  const host = args.find((arg) => !arg.startsWith("-") && !/^[\d-]+$/.test(arg));
  return isProbe && range !== undefined && !isLoopback(host ?? "") ? `${program} -z tries ports ${range}` : undefined;
}

/** The newest attempts that are remembered. */
const MAX_ATTEMPTS = 1024;

/** One attempt to connect: milliseconds, of one clock for all; address or name; port. */
export type ConnectAttempt = Pick<ConnectionRecord, "at" | "host" | "port">;

/**
 * Attempts to leave the sandbox within a sliding window. Many hosts are many addresses: whoever scans has no names, and a page
 * in a browser names dozens of hosts.
 */
export class ScanWatch {
  #attempts: ConnectAttempt[] = [];

  look(attempt: ConnectAttempt, settings: { readonly destinations: number; readonly windowSeconds: number }) {
    if (attempt.host === "") return undefined;
    const since = attempt.at - settings.windowSeconds * 1000;
    this.#attempts = [...this.#attempts.filter(({ at }) => at >= since), attempt].slice(-MAX_ATTEMPTS);
    const found = this.#judge(attempt, settings.destinations);
    if (found === undefined) return undefined;
    this.#attempts = []; // told once; what goes on is told again
    return `${found} within ${settings.windowSeconds} s`;
  }

  #judge({ host }: ConnectAttempt, destinations: number): string | undefined {
    const addresses = new Set(this.#attempts.map((one) => one.host).filter((one) => isIP(one) !== 0));
    if (isIP(host) !== 0 && addresses.size >= destinations) return `tried ${addresses.size} addresses`;
    const ports = new Set(this.#attempts.filter((one) => one.host === host).map(({ port }) => port));
    return ports.size >= destinations ? `tried ${ports.size} ports of ${host}` : undefined;
  }
}
