/** From a host that may be reached to a connection: looked up once, judged, and connected to at that very address. */

import { lookup } from "node:dns/promises";
import { connect, type Socket } from "node:net";
import { errorMessage } from "../../core/errors.ts";
import { beginWait } from "../../core/waits.ts";
import { type Address, parseAddress } from "./addresses.ts";
import type { NetworkPolicy } from "./policy.ts";

/** Addresses of a name, in the order they are to be tried. */
export type Resolve = (host: string) => Promise<readonly string[]>;

/** With this machine's own resolver. */
export const systemResolve: Resolve = async (host) =>
  (await lookup(host, { all: true, verbatim: true })).map(({ address }) => address);

const RESOLVE_MS = 5_000;
const CONNECT_MS = 10_000;
/** Of a name's addresses so many are tried. */
const MAX_ATTEMPTS = 3;

/** A host that may not be reached, or could not be. */
export class Unreachable extends Error {
  readonly verdict: "denied" | "failed";
  /** The host has no address, and not only at the moment. */
  readonly missing: boolean;

  constructor(verdict: "denied" | "failed", message: string, missing = false) {
    super(message);
    this.verdict = verdict;
    this.missing = missing;
  }
}

export interface Upstream {
  readonly socket: Socket;
  readonly address: string;
}

async function within<T>(what: string, ms: number, work: Promise<T>): Promise<T> {
  const endWait = beginWait("sandboxes", what, ms);
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Unreachable("failed", `${what} took more than ${ms / 1000} s`)), ms);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
    endWait();
  }
}

/** Connects to one of a host's addresses, all of which `policy` is asked about. @throws Unreachable */
export async function reach(host: string, port: number, policy: NetworkPolicy, resolve: Resolve): Promise<Upstream> {
  const texts = await addressesOf(host, resolve);
  let refusal = "it has no address";
  const allowed = texts.filter((text) => {
    const address = parseAddress(text);
    const reason = address === undefined ? "its address cannot be read" : policy.refuseAddress(address, port);
    if (reason !== undefined) refusal = `${reason} (${text})`;
    return reason === undefined;
  });
  if (allowed.length === 0) throw new Unreachable(texts.length > 0 ? "denied" : "failed", refusal);
  let failure: unknown;
  for (const text of allowed.slice(0, MAX_ATTEMPTS)) {
    try {
      return { socket: await connectTo(text, port), address: text };
    } catch (error) {
      failure = error;
    }
  }
  throw failure instanceof Unreachable ? failure : new Unreachable("failed", errorMessage(failure));
}

/** Of a name, or the address itself. @throws Unreachable */
export async function addressesOf(host: string, resolve: Resolve): Promise<readonly string[]> {
  const literal: Address | undefined = parseAddress(host);
  if (literal !== undefined) return [host];
  try {
    return await within(`looking up ${host}`, RESOLVE_MS, resolve(host));
  } catch (error) {
    if (error instanceof Unreachable) throw error;
    const missing = /ENOTFOUND|ENODATA|EAI_NONAME/.test(String((error as { readonly code?: unknown }).code));
    throw new Unreachable("failed", `${host} could not be looked up: ${errorMessage(error)}`, missing);
  }
}

function connectTo(address: string, port: number): Promise<Socket> {
  const socket = connect({ host: address, port, allowHalfOpen: true } as Parameters<typeof connect>[0] & object);
  socket.pause();
  socket.setNoDelay(true);
  const connected = new Promise<Socket>((resolve, reject) => {
    socket.once("connect", () => resolve(socket));
    socket.once("error", (error) => reject(new Unreachable("failed", `${address}: ${errorMessage(error)}`)));
  });
  return within(`connecting to ${address}`, CONNECT_MS, connected).catch((error: unknown) => {
    socket.destroy();
    throw error;
  });
}
