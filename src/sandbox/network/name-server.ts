/**
 * The resolver of one sandbox, at 127.0.0.1:53 inside. A name that the sandbox may reach is answered with the address that
 * stands for it there (`StandIns`); of any other nobody outside hears. Only whether a host has an address is ever asked outside.
 */

import type { Socket } from "node:net";
import { errorMessage } from "../../core/errors.ts";
import { parseAddress } from "./addresses.ts";
import type { ConnectionLog } from "./connection-log.ts";
import {
  type Query,
  type QueryAnswer,
  Rcode,
  RecordType,
  readQuery,
  writeAnswer,
  writeFailure,
} from "./dns-message.ts";
import type { Lookups } from "./lookups.ts";
import { canonicalHost, type NetworkPolicy } from "./policy.ts";
import { addressesOf, Unreachable } from "./upstream.ts";

export const NAME_PORT = 53;
/** Queries a second, and how many may come at once. */
const RATE = 50;
const BURST = 200;
/** Less than stand-ins listen. */
const SECONDS = 30;
/** In front of each datagram of the launcher's (`launcher/datagrams.c`): its length, address and port of who sent it. */
const FRAME = 8;
/** In front of each message of a connection (RFC 1035 section 4.2.2). */
const LENGTH = 2;
const HOLD_MS = 200;
const STREAM_IDLE_MS = 10_000;

export interface NameServerOptions {
  readonly policy: NetworkPolicy;
  readonly log: ConnectionLog;
  readonly lookups: Lookups;
  /** The address inside that stands for a name and leads to these ports. */
  readonly standIn: (name: string, ports: readonly number[]) => Promise<string>;
}

export class NameServer {
  /** Replaced when the sandbox's network changes. */
  policy: NetworkPolicy;
  readonly #options: NameServerOptions;
  #tokens = BURST;
  #filledAt = performance.now();

  constructor(options: NameServerOptions) {
    this.#options = options;
    this.policy = options.policy;
  }

  /** Datagrams, each in its frame; answers go back the same way. */
  serveDatagrams(client: Socket): Promise<void> {
    return this.#serve(client, FRAME, (frame, answer) => {
      const head = Buffer.from(frame.subarray(0, FRAME));
      head.writeUInt16BE(answer.length);
      return head;
    });
  }

  /** A connection. */
  serveStream(client: Socket): Promise<void> {
    client.setTimeout(STREAM_IDLE_MS, () => client.destroy());
    return this.#serve(client, LENGTH, (_frame, answer) => Buffer.from([answer.length >> 8, answer.length & 255]));
  }

  /** Messages behind heads of `headSize` bytes, which begin with the message's length. Never rejects. */
  async #serve(
    client: Socket,
    headSize: number,
    headFor: (frame: Buffer, answer: Uint8Array) => Buffer,
  ): Promise<void> {
    client.on("error", () => {});
    client.on("end", () => client.end());
    let bytes: Buffer = Buffer.alloc(0);
    client.on("data", (chunk: Buffer) => {
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk]);
      while (bytes.length >= headSize && bytes.length >= headSize + bytes.readUInt16BE(0)) {
        const frame = bytes.subarray(0, headSize + bytes.readUInt16BE(0));
        bytes = bytes.subarray(frame.length);
        if (!this.#take()) {
          this.#hold(client);
          continue; // lost, as datagrams are
        }
        void this.answer(frame.subarray(headSize)).then((answer) => {
          if (answer !== undefined && client.writable) client.write(Buffer.concat([headFor(frame, answer), answer]));
        });
      }
    });
    client.resume();
  }

  /** Whether one more query is within the rate. */
  #take(): boolean {
    const now = performance.now();
    this.#tokens = Math.min(BURST, this.#tokens + ((now - this.#filledAt) * RATE) / 1000);
    this.#filledAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }

  /** Does not read for a while, so that whoever floods holds up himself. */
  #hold(client: Socket): void {
    if (client.isPaused()) return;
    client.pause();
    setTimeout(() => client.resume(), HOLD_MS);
    this.#options.log.begin("dns", "", NAME_PORT).end("denied", `more than ${RATE} queries a second`);
  }

  /** The answer to a message; `undefined`: none. Never rejects. */
  async answer(message: Uint8Array): Promise<Uint8Array | undefined> {
    const query = readQuery(message);
    if (query === undefined) return undefined;
    if ("code" in query) return writeFailure(query.id, query.code);
    const record = this.#options.log.begin("dns", query.name, NAME_PORT);
    try {
      const answer = await this.#answer(query);
      record.address = answer.address ?? null;
      record.end(answer.reason === undefined ? "allowed" : "denied", answer.reason);
      return writeAnswer(query, answer);
    } catch (error) {
      const denied = error instanceof Unreachable && error.verdict === "denied";
      const reason = errorMessage(error);
      record.end(denied ? "denied" : "failed", reason);
      if (denied) return writeAnswer(query, { code: Rcode.noSuchName, reason });
      // What is not there is told as that; what went wrong otherwise may go right later.
      const missing = error instanceof Unreachable && error.missing;
      return writeAnswer(query, { code: missing ? Rcode.noSuchName : Rcode.serverFailure });
    }
  }

  async #answer({ name, type }: Query): Promise<QueryAnswer> {
    const { policy } = this;
    const host = canonicalHost(name);
    if (host === undefined || parseAddress(host) !== undefined)
      return { code: Rcode.noSuchName, reason: "it is no name of a host" };
    const ports = policy.portsOf(host);
    if (ports.length === 0) return { code: Rcode.noSuchName, reason: refusalOf(policy) };
    if (type === RecordType.HTTPS || type === RecordType.SVCB) return { code: Rcode.ok };
    if (type !== RecordType.A && type !== RecordType.AAAA)
      return { code: Rcode.refused, reason: `records of type ${type} are not looked up` };
    const found = await addressesOf(host, (one) => this.#options.lookups.findLately(one, policy));
    if (this.policy !== policy) throw new Unreachable("failed", "the network of the sandbox changed");
    const refusals = found.map((text) => {
      const address = parseAddress(text);
      return address === undefined ? "its address cannot be read" : policy.refuseAddress(address, ports);
    });
    if (!refusals.includes(undefined))
      throw new Unreachable(found.length > 0 ? "denied" : "failed", refusals[0] ?? "it has no address", true);
    if (type === RecordType.AAAA) return { code: Rcode.ok };
    return { code: Rcode.ok, address: await this.#options.standIn(host, ports), seconds: SECONDS };
  }
}

function refusalOf({ mode }: NetworkPolicy): string {
  return mode === "none" ? "there is no network" : "the host is not listed";
}
