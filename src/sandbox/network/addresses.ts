/** IP addresses as numbers, and which of them are not public. */

import { networkInterfaces } from "node:os";

export interface Address {
  readonly family: 4 | 6;
  readonly value: bigint;
}

export interface AddressRange {
  readonly family: 4 | 6;
  readonly first: bigint;
  readonly last: bigint;
}

const BITS = { 4: 32n, 6: 128n } as const;

/** Dotted, four numbers without leading zeros; nothing of the older notations, which mean different things to different programs. */
function parse4(text: string): bigint | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256))
    return undefined;
  return parts.reduce((sum, part) => sum * 256n + BigInt(part), 0n);
}

function parse6(text: string): bigint | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const groups = (half: string | undefined): bigint[] | undefined => {
    if (half === undefined || half === "") return [];
    const found: bigint[] = [];
    const parts = half.split(":");
    for (const [index, part] of parts.entries()) {
      const dotted = part.includes(".") && index === parts.length - 1 ? parse4(part) : undefined;
      if (dotted !== undefined) found.push(dotted >> 16n, dotted & 0xffffn);
      else if (/^[0-9a-f]{1,4}$/i.test(part)) found.push(BigInt(`0x${part}`));
      else return undefined;
    }
    return found;
  };
  const [head, tail] = [groups(halves[0]), groups(halves[1])];
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined;
  return [...head, ...Array<bigint>(missing).fill(0n), ...tail].reduce((sum, group) => (sum << 16n) | group, 0n);
}

/** An address in its usual notation, without brackets. IPv4 in IPv6 (`::ffff:a.b.c.d`) is the IPv4 address. */
export function parseAddress(text: string): Address | undefined {
  const four = parse4(text);
  if (four !== undefined) return { family: 4, value: four };
  const six = text.includes(":") ? parse6(text) : undefined;
  if (six === undefined) return undefined;
  return six >> 32n === 0xffffn ? { family: 4, value: six & 0xffffffffn } : { family: 6, value: six };
}

/** `a.b.c.d/n`, `x::/n`, or one address. */
export function parseRange(text: string): AddressRange | undefined {
  const [, base = "", digits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const address = parseAddress(base);
  if (address === undefined) return undefined;
  const bits = BITS[address.family];
  const length = digits === undefined ? bits : BigInt(digits);
  if (length > bits || (base.includes(":") && address.family === 4 && digits !== undefined)) return undefined;
  const size = 1n << (bits - length);
  const first = (address.value / size) * size;
  return { family: address.family, first, last: first + size - 1n };
}

export function inRange({ family, value }: Address, range: AddressRange): boolean {
  return family === range.family && value >= range.first && value <= range.last;
}

/** Whether all of `inner` is in `outer`. */
export function isWithin(inner: AddressRange, outer: AddressRange): boolean {
  return inner.family === outer.family && inner.first >= outer.first && inner.last <= outer.last;
}

/** IANA's special-purpose registries (RFC 6890 and later), and what clouds put among public addresses. */
const SPECIAL: readonly (readonly [what: string, ...ranges: string[]])[] = [
  ["unspecified", "0.0.0.0/8", "::/128"],
  ["private", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"],
  ["shared (CGNAT)", "100.64.0.0/10"],
  ["loopback", "127.0.0.0/8", "::1/128"],
  ["link-local", "169.254.0.0/16", "fe80::/10"],
  ["cloud metadata", "168.63.129.16/32"],
  ["reserved", "192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4", "2001::/23", "100::/64", "5f00::/16"],
  ["documentation", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"],
  ["benchmarking", "198.18.0.0/15"],
  ["multicast", "224.0.0.0/4", "ff00::/8"],
  ["translated IPv4", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::/96"],
];

const RANGES = SPECIAL.flatMap(([what, ...ranges]) =>
  ranges.map((text) => ({ what, range: parseRange(text) as AddressRange })),
);
/** What of IPv6 is handed out at all (RFC 4291). */
const GLOBAL_6 = parseRange("2000::/3") as AddressRange;

export interface SpecialRange {
  /** Such as `loopback`. */
  readonly what: string;
  readonly range: AddressRange;
}

/** The special range an address lies in; `undefined`: it is public. */
export function specialRange(address: Address): SpecialRange | undefined {
  const found = RANGES.find(({ range }) => inRange(address, range));
  const { family, value } = address;
  if (ownAddresses().some((own) => own.family === family && own.value === value))
    return { what: found?.what ?? "this machine's own", range: { family, first: value, last: value } };
  if (found !== undefined) return found;
  if (address.family === 6 && !inRange(address, GLOBAL_6))
    return { what: "not public", range: { family: 6, first: 0n, last: (1n << 128n) - 1n } };
  return undefined;
}

/** Services that listen on all addresses of this machine are not meant for sandboxes: each address has to be listed itself. */
function ownAddresses(): Address[] {
  return Object.values(networkInterfaces()).flatMap((entries) =>
    (entries ?? []).flatMap(({ address }) => parseAddress(address.replace(/%.*$/, "")) ?? []),
  );
}

/** Whether a listed range means these special addresses: `0.0.0.0/0` does not list 127.0.0.1, `127.0.0.1` does. */
export function listsSpecial(listed: AddressRange, special: SpecialRange): boolean {
  return isWithin(listed, special.range);
}
