/**
 * The name a TLS client asks for, read from its first message (RFC 8446 section 4.1.2, RFC 6066 section 3). Nothing is
 * decrypted: the name is sent in the open, unless the client hides it (Encrypted Client Hello), which is reported.
 */

/** `more`: not all of it has come. `reason`: it is no ClientHello one can go by. */
export type ClientHello =
  | { readonly kind: "more" }
  | { readonly kind: "hello"; readonly serverName: string | undefined }
  | { readonly kind: "bad"; readonly reason: string };

const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const MAX_RECORD = 16_384;
/** A message may span records; browsers send about 2 kB in one. */
const MAX_HELLO = 16_384;
const MAX_RECORDS = 16;
const SERVER_NAME = 0;
/** Encrypted Client Hello and its predecessors. */
const HIDDEN_NAMES: ReadonlySet<number> = new Set([0xfe0d, 0xfe0c, 0xfe0b, 0xfe0a, 0xfe09, 0xfe08, 0xffce]);

const bad = (reason: string): ClientHello => ({ kind: "bad", reason });
class Short extends Error {}

/** Reads numbers and vectors; throws `Short` beyond the end. */
class Cursor {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  number(size: number): number {
    return this.take(size).reduce((sum, byte) => sum * 256 + byte, 0);
  }

  take(size: number): Uint8Array {
    if (size > this.left) throw new Short();
    this.#at += size;
    return this.#bytes.subarray(this.#at - size, this.#at);
  }

  /** A vector whose length comes first, in `size` bytes. */
  vector(size: number): Cursor {
    return new Cursor(this.take(this.number(size)));
  }
}

/** Reads the beginning of what a client sent. Called again with every byte that comes, so it looks at lengths first. */
export function readClientHello(bytes: Uint8Array): ClientHello {
  const parts: Uint8Array[] = [];
  let have = 0;
  for (let at = 0; ; ) {
    if (bytes.length > at && bytes[at] !== HANDSHAKE) return bad("it is not TLS");
    if (bytes.length > at + 1 && bytes[at + 1] !== 3) return bad("it is not TLS");
    if (bytes.length < at + 5) return { kind: "more" };
    const length = ((bytes[at + 3] ?? 0) << 8) | (bytes[at + 4] ?? 0);
    if (length === 0 || length > MAX_RECORD) return bad("its TLS record has a bad length");
    const part = bytes.subarray(at + 5, at + 5 + length);
    have += part.length;
    if (parts.push(part) > MAX_RECORDS) return bad("its ClientHello is cut into too many records");
    const [type = CLIENT_HELLO, high, middle, low] = beginning(parts);
    if (type !== CLIENT_HELLO) return bad("it does not begin with a ClientHello");
    if (high !== undefined && middle !== undefined && low !== undefined) {
      const whole = 4 + ((high << 16) | (middle << 8) | low);
      if (whole > MAX_HELLO) return bad("its ClientHello is too long");
      if (have >= whole) return readMessage(Buffer.concat(parts).subarray(4, whole));
    }
    if (part.length < length) return { kind: "more" };
    at += 5 + length;
  }
}

/** Its type and length: the first four bytes of the message, or what there is of them. */
function beginning(parts: readonly Uint8Array[]): number[] {
  return parts
    .slice(0, 4)
    .flatMap((part) => [...part.subarray(0, 4)])
    .slice(0, 4);
}

function readMessage(body: Uint8Array): ClientHello {
  try {
    const hello = new Cursor(body);
    hello.take(2 + 32); // version, random
    hello.vector(1); // session
    hello.vector(2); // cipher suites
    hello.vector(1); // compression methods
    if (hello.left === 0) return { kind: "hello", serverName: undefined };
    const extensions = hello.vector(2);
    let serverName: string | undefined;
    while (extensions.left > 0) {
      const type = extensions.number(2);
      const content = extensions.vector(2);
      if (HIDDEN_NAMES.has(type)) return bad("it hides the name it asks for (ECH)");
      if (type !== SERVER_NAME) continue;
      if (serverName !== undefined) return bad("it asks for several names");
      serverName = readName(content);
      if (serverName === undefined) return bad("it asks for several names, or none that can be read");
    }
    return { kind: "hello", serverName };
  } catch (error) {
    if (error instanceof Short) return bad("its ClientHello is malformed");
    throw error;
  }
}

/** The one host name of the extension. */
function readName(content: Cursor): string | undefined {
  const list = content.vector(2);
  if (list.number(1) !== 0) return undefined;
  const name = list.vector(2);
  return list.left > 0 || content.left > 0 ? undefined : new TextDecoder("latin1").decode(name.take(name.left));
}
