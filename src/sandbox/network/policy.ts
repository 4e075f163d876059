/** What a sandbox may reach, as rules that can be asked. Pure: no name is looked up here. */

import { AleError } from "../../core/errors.ts";
import type { NetworkLimits, NetworkMode, NetworkSpec } from "../../core/types.ts";
import {
  type Address,
  type AddressRange,
  inRange,
  isWithin,
  listsSpecial,
  parseAddress,
  parseRange,
  specialRange,
} from "./addresses.ts";

export const NO_NETWORK: NetworkSpec = { mode: "none", allow: [] };

export const DEFAULT_LIMITS: NetworkLimits = {
  connections: 32,
  totalConnections: 10_000,
  bytesOut: 256 * 2 ** 20,
  bytesIn: 16 * 2 ** 30,
};

const USUAL_PORTS = [80, 443];
const MAX_RULES = 1000;
/** RFC 1123 labels; names in other scripts come as `xn--…`. The last label is no number, which would be an address. */
const NAME =
  /^(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*(?!\d+$|0x[0-9a-f]*$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

export type Rule = { readonly port: number | undefined } & (
  | { readonly kind: "host" | "below"; readonly name: string }
  | { readonly kind: "range"; readonly range: AddressRange }
);

/** Why something may not be reached; `undefined`: it may. */
export type Refusal = string | undefined;

/** A host as it is compared: lower case, without the root's dot; `undefined` for what is neither name nor address. */
export function canonicalHost(text: string): string | undefined {
  const bare = /^\[(.*)\]$/.exec(text)?.[1] ?? text;
  if (parseAddress(bare) !== undefined) return bare.toLowerCase();
  const name = text.toLowerCase().replace(/\.$/, "");
  return NAME.test(name) ? name : undefined;
}

function badRule(rule: string, why: string): AleError {
  return new AleError("usage", `network rule ${JSON.stringify(rule)}: ${why}`, {
    hint: "write example.org, *.example.org, 203.0.113.7, 10.1.0.0/16 or [2001:db8::]/32, each with or without :port",
  });
}

/** @throws AleError("usage") naming a rule that is none. */
export function parseRule(rule: string): Rule {
  const text = rule.trim().toLowerCase();
  const bracketed = /^\[([^\]]+)\](\/\d+)?(?::(\d+))?$/.exec(text);
  const plain = /^([^:]+)(?::(\d+))?$/.exec(text);
  const body = bracketed ? `${bracketed[1]}${bracketed[2] ?? ""}` : (plain?.[1] ?? text);
  const digits = bracketed ? bracketed[3] : plain?.[2];
  const port = digits === undefined ? undefined : Number(digits);
  if (port !== undefined && !(port >= 1 && port <= 65_535)) throw badRule(rule, "the port is out of range");
  const range = parseRange(body);
  if (range !== undefined) return { kind: "range", range, port };
  if (body.startsWith("*.") && NAME.test(body.slice(2))) return { kind: "below", name: body.slice(2), port };
  if (NAME.test(body)) return { kind: "host", name: body, port };
  throw badRule(rule, "it is neither a host nor an address");
}

/** Whether whatever `inner` lists is listed by `outer`, too. */
export function covers(outer: Rule, inner: Rule): boolean {
  const ports = inner.port === undefined ? USUAL_PORTS : [inner.port];
  if (!ports.every((port) => fits(outer, port))) return false;
  if (inner.kind === "range") {
    if (outer.kind !== "range" || !isWithin(inner.range, outer.range)) return false;
    const { family, first } = inner.range;
    const special = specialRange({ family, value: first });
    return special === undefined || !isWithin(inner.range, special.range) || listsSpecial(outer.range, special);
  }
  if (outer.kind === "host") return inner.kind === "host" && inner.name === outer.name;
  return (
    outer.kind === "below" &&
    (inner.name.endsWith(`.${outer.name}`) || (inner.kind === "below" && inner.name === outer.name))
  );
}

export class NetworkPolicy {
  readonly mode: NetworkMode;
  readonly limits: NetworkLimits;
  readonly #rules: readonly Rule[];

  /** @throws AleError("usage") naming the rule that is not one. */
  constructor({ mode, allow, limits }: NetworkSpec) {
    if (mode === "none" && allow.length > 0)
      throw new AleError("usage", "a network of mode none lists hosts", { hint: 'set mode "allowlist"' });
    if (allow.length > MAX_RULES)
      throw new AleError("usage", `a network lists ${allow.length} hosts; at most ${MAX_RULES}`, {
        hint: "use *.host and ranges",
      });
    this.mode = mode;
    this.limits = { ...DEFAULT_LIMITS, ...limits };
    this.#rules = allow.map(parseRule);
  }

  /** Before anything is looked up: whether the host, by that name, may be reached at that port. `host` is canonical. */
  refuseHost(host: string, port: number): Refusal {
    if (this.mode === "none") return "there is no network";
    const address = parseAddress(host);
    if (address !== undefined) return this.#refuseLiteral(address, port);
    if (this.mode === "public") return undefined;
    const named = this.#rules.filter((rule) => names(rule, host));
    if (named.length === 0) return "the host is not listed";
    return named.some((rule) => fits(rule, port)) ? undefined : `port ${port} of the host is not listed`;
  }

  /** Ports at which the host may be reached by that name; none where it may not be. `host` is canonical, and no address. */
  portsOf(host: string): readonly number[] {
    if (this.mode === "none") return [];
    const named = this.#rules.filter((rule) => names(rule, host));
    const ports = named.flatMap(({ port }) => port ?? USUAL_PORTS);
    return [...new Set(this.mode === "public" ? [...USUAL_PORTS, ...ports] : ports)];
  }

  /** Whether the host is listed by that very name. */
  lists(host: string): boolean {
    return this.#rules.some((rule) => rule.kind === "host" && rule.name === host);
  }

  #refuseLiteral(address: Address, port: number): Refusal {
    const listed = this.#rules.some(
      (rule) => rule.kind === "range" && inRange(address, rule.range) && fits(rule, port),
    );
    if (!listed && this.mode === "allowlist") return "the address is not listed";
    return this.refuseAddress(address, port);
  }

  /** Whether a connection may be made to an address, whatever name led there; of several ports one is enough. */
  refuseAddress(address: Address, port: number | readonly number[]): Refusal {
    const ports = typeof port === "number" ? [port] : port;
    const special = specialRange(address);
    if (special === undefined) return undefined;
    const listed = this.#rules.some(
      (rule) =>
        rule.kind === "range" &&
        inRange(address, rule.range) &&
        listsSpecial(rule.range, special) &&
        ports.some((one) => fits(rule, one)),
    );
    return listed ? undefined : `the address is ${special.what} and not listed`;
  }
}

function names(rule: Rule, host: string): boolean {
  return (rule.kind === "host" && rule.name === host) || (rule.kind === "below" && host.endsWith(`.${rule.name}`));
}

function fits(rule: Rule, port: number): boolean {
  return rule.port === undefined ? USUAL_PORTS.includes(port) : rule.port === port;
}
