/** DNS messages (RFC 1035 section 4), as far as the resolver of one sandbox needs them: one question, at most one answer. */

export const RecordType = { A: 1, AAAA: 28, SVCB: 64, HTTPS: 65 } as const;
export const Rcode = { ok: 0, formatError: 1, serverFailure: 2, noSuchName: 3, notImplemented: 4, refused: 5 } as const;
export type RcodeNumber = (typeof Rcode)[keyof typeof Rcode];

const HEADER = 12;
const MAX_LABEL = 63;
const MAX_NAME = 255;
const INTERNET = 1;
const OPT = 41;
/** Extended DNS Errors (RFC 8914): why, for programs that show it. */
const EXTENDED_ERROR = 15;
const PROHIBITED = 18;
const MAX_REASON = 200;
/** What we take of a datagram (RFC 9715). */
const PAYLOAD = 1232;

export interface Query {
  readonly id: number;
  /** Lower case, without the root's dot. Bytes that no host has are `?`. */
  readonly name: string;
  readonly type: number;
  readonly recursion: boolean;
  /** Whether it understands more than RFC 1035 (RFC 6891). */
  readonly extended: boolean;
  /** The question as it came, which the answer repeats. */
  readonly question: Uint8Array;
}

export interface QueryAnswer {
  readonly code: RcodeNumber;
  /** An IPv4 address that the name has, and how many seconds that may be relied on. */
  readonly address?: string;
  readonly seconds?: number;
  readonly reason?: string;
}

/** What was asked; the code to answer with where that cannot be told; `undefined` where nothing should be answered. */
export function readQuery(bytes: Uint8Array): Query | { readonly id: number; readonly code: RcodeNumber } | undefined {
  if (bytes.length < HEADER) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [id, flags, questions, answers, additions] = [0, 2, 4, 6, 10].map((at) => view.getUint16(at)) as [
    ...[number, number, number, number, number],
  ];
  if ((flags & 0x8000) !== 0) return undefined; // an answer, which could lead to another one
  if ((flags & 0x7800) !== 0) return { id, code: Rcode.notImplemented };
  if (questions !== 1 || answers !== 0) return { id, code: Rcode.formatError };
  const labels: string[] = [];
  let at = HEADER;
  for (let length = bytes[at] ?? 0; length !== 0; length = bytes[at] ?? 0) {
    if (length > MAX_LABEL || at + 1 + length - HEADER > MAX_NAME) return { id, code: Rcode.formatError };
    labels.push(textOf(bytes.subarray(at + 1, at + 1 + length)));
    at += 1 + length;
  }
  const end = at + 5;
  if (end > bytes.length) return { id, code: Rcode.formatError };
  if (view.getUint16(at + 3) !== INTERNET) return { id, code: Rcode.notImplemented };
  const extended = additions > 0 && bytes[end] === 0 && end + 3 <= bytes.length && view.getUint16(end + 1) === OPT;
  const recursion = (flags & 0x0100) !== 0;
  const question = bytes.slice(HEADER, end);
  return { id, name: labels.join("."), type: view.getUint16(at + 1), recursion, extended, question };
}

function textOf(label: Uint8Array): string {
  return [...label]
    .map((byte) => (byte > 32 && byte < 127 && byte !== 46 ? String.fromCharCode(byte) : "?"))
    .join("")
    .toLowerCase();
}

function numbers(...parts: readonly number[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [part >> 8, part & 255]));
}

function header(id: number, flags: number, questions: number, answers: number, additions: number): Uint8Array {
  return numbers(id, flags, questions, answers, 0, additions);
}

/** What a message gets that cannot be read. */
export function writeFailure(id: number, code: RcodeNumber): Uint8Array {
  return header(id, 0x8080 | code, 0, 0, 0);
}

/** Name and number of the question, the answer, and the reason where it is understood. */
export function writeAnswer(query: Query, { code, address, seconds = 0, reason }: QueryAnswer): Uint8Array {
  const flags = 0x8080 | (query.recursion ? 0x0100 : 0) | code;
  const parts = [header(query.id, flags, 1, address === undefined ? 0 : 1, query.extended ? 1 : 0), query.question];
  if (address !== undefined) {
    // The name is where the question has it.
    parts.push(numbers(0xc000 | HEADER, RecordType.A, INTERNET, seconds >>> 16, seconds & 0xffff, 4));
    parts.push(Uint8Array.from(address.split(".").map(Number)));
  }
  if (query.extended) {
    const text = new TextEncoder().encode(reason?.slice(0, MAX_REASON) ?? "");
    const option = text.length > 0 ? [numbers(EXTENDED_ERROR, 2 + text.length, PROHIBITED), text] : [];
    const size = option.reduce((sum, part) => sum + part.length, 0);
    parts.push(Uint8Array.of(0), numbers(OPT, PAYLOAD, 0, 0, size), ...option);
  }
  return Buffer.concat(parts);
}
