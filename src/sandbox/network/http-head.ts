/**
 * Heads of HTTP/1.1 requests to a proxy (RFC 9112). Whatever two programs could read differently is refused: the proxy must
 * see the same host and the same end of the body as the server behind it.
 */

export interface RequestHead {
  readonly method: string;
  readonly target: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** What came behind the head. */
  readonly rest: Uint8Array;
}

export type ReadHead =
  | { readonly kind: "more" }
  | { readonly kind: "head"; readonly head: RequestHead }
  | { readonly kind: "bad"; readonly reason: string };

const MAX_HEAD = 16_384;
const END = new Uint8Array([13, 10, 13, 10]);
const REQUEST_LINE = /^([A-Z]{1,20}) ([\x21-\x7e]+) HTTP\/1\.[01]$/;
const FIELD = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*$/;
/** Meant for the proxy, or for one connection only (RFC 9110 section 7.6.1). */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  ...["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade"],
]);

function endOfHead(bytes: Uint8Array): number {
  for (let at = bytes.indexOf(13); at >= 0; at = bytes.indexOf(13, at + 1))
    if (END.every((byte, index) => bytes[at + index] === byte)) return at;
  return -1;
}

export function readHead(bytes: Uint8Array): ReadHead {
  const end = endOfHead(bytes);
  if (end < 0) return bytes.length > MAX_HEAD ? { kind: "bad", reason: "its head is too long" } : { kind: "more" };
  if (end > MAX_HEAD) return { kind: "bad", reason: "its head is too long" };
  const [first = "", ...lines] = new TextDecoder("latin1").decode(bytes.subarray(0, end)).split("\r\n");
  const [, method, target] = REQUEST_LINE.exec(first) ?? [];
  const fields = lines.map((line) => FIELD.exec(line));
  if (method === undefined || target === undefined || fields.some((field) => field === null))
    return { kind: "bad", reason: "it is no HTTP/1.1 request" };
  const headers = fields.map((field) => [field?.[1] ?? "", field?.[2] ?? ""] as const);
  return { kind: "head", head: { method, target, headers, rest: bytes.subarray(end + END.length) } };
}

export function valuesOf(head: RequestHead, name: string): string[] {
  return head.headers.filter(([field]) => field.toLowerCase() === name).map(([, value]) => value);
}

/** `host:port`, `[address]:port`, or without the port. */
export function parseAuthority(text: string): { readonly host: string; readonly port: number | undefined } | undefined {
  const [, host, port] = /^(\[[0-9A-Fa-f:.]+\]|[^\s/@:[\]\\?#]+)(?::(\d{1,5}))?$/.exec(text) ?? [];
  if (host === undefined) return undefined;
  const number = port === undefined ? undefined : Number(port);
  return number !== undefined && (number < 1 || number > 65_535) ? undefined : { host, port: number };
}

/** The authority and the path of `http://…`; `undefined` for anything else. */
export function parseAbsolute(target: string): { readonly authority: string; readonly path: string } | undefined {
  const [, authority, path = ""] = /^http:\/\/([^/?#@\\]+)((?:[/?][^#]*)?)$/i.exec(target) ?? [];
  if (authority === undefined) return undefined;
  return { authority, path: path.startsWith("/") ? path : `/${path}` };
}

/** The head as the server gets it: one request, then the connection closes. */
export function forwardedHead(head: RequestHead, path: string): string {
  const dropped = new Set(valuesOf(head, "connection").flatMap((value) => value.toLowerCase().split(/[ \t]*,[ \t]*/)));
  const kept = head.headers.filter(([name]) => {
    const field = name.toLowerCase();
    return !HOP_BY_HOP.has(field) && (field === "host" || !dropped.has(field) || FRAMING.has(field));
  });
  const lines = [`${head.method} ${path} HTTP/1.1`, ...kept.map(([name, value]) => `${name}: ${value}`)];
  return `${lines.join("\r\n")}\r\nConnection: close\r\n\r\n`;
}

const FRAMING: ReadonlySet<string> = new Set(["content-length", "transfer-encoding"]);

/** How long a request's body is; `undefined`: its head says two things, or nothing that can be relied on. */
export function bodyFraming(head: RequestHead): BodyFraming | undefined {
  const [lengths, encodings] = [valuesOf(head, "content-length"), valuesOf(head, "transfer-encoding")];
  if (encodings.length > 0)
    return encodings.length === 1 && encodings[0]?.toLowerCase() === "chunked" && lengths.length === 0
      ? new ChunkedBody()
      : undefined;
  if (lengths.length === 0) return new SizedBody(0);
  return lengths.length === 1 && /^\d{1,15}$/.test(lengths[0] ?? "") ? new SizedBody(Number(lengths[0])) : undefined;
}

/** Counts a body's bytes, to its end and no further. */
export interface BodyFraming {
  readonly done: boolean;
  /** How many of `bytes` belong to the body; −1: they are malformed. */
  take(bytes: Uint8Array): number;
}

class SizedBody implements BodyFraming {
  #left: number;

  constructor(size: number) {
    this.#left = size;
  }

  get done(): boolean {
    return this.#left === 0;
  }

  take(bytes: Uint8Array): number {
    const taken = Math.min(this.#left, bytes.length);
    this.#left -= taken;
    return taken;
  }
}

const MAX_LINE = 4096;
const CR = 13;
const LF = 10;

/** RFC 9112 section 7.1: sizes in hexadecimal, extensions ignored, trailers to an empty line. */
class ChunkedBody implements BodyFraming {
  #state: "size" | "data" | "data-end" | "trailer" | "done" = "size";
  #line = "";
  #left = 0;

  get done(): boolean {
    return this.#state === "done";
  }

  take(bytes: Uint8Array): number {
    let at = 0;
    while (at < bytes.length && this.#state !== "done") {
      if (this.#state === "data") {
        const some = Math.min(this.#left, bytes.length - at);
        at += some;
        this.#left -= some;
        if (this.#left === 0) this.#state = "data-end";
      } else if (!this.#byte(bytes[at++] ?? 0)) return -1;
    }
    return at;
  }

  /** One byte of a line; false: malformed. */
  #byte(byte: number): boolean {
    const ends = this.#line.endsWith("\r");
    if ((byte === LF) !== ends || this.#line.length > MAX_LINE) return false;
    if (byte !== LF) {
      if (byte < 32 && byte !== CR && byte !== 9) return false;
      if (this.#state === "data-end" && byte !== CR) return false;
      this.#line += String.fromCharCode(byte);
      return true;
    }
    const line = this.#line.slice(0, -1);
    this.#line = "";
    return this.#endLine(line);
  }

  #endLine(line: string): boolean {
    if (this.#state === "data-end") {
      this.#state = "size";
      return line === "";
    }
    if (this.#state === "trailer") {
      if (line === "") this.#state = "done";
      return true;
    }
    const size = /^[0-9A-Fa-f]{1,12}(?=$|[ \t]*;)/.exec(line)?.[0];
    if (size === undefined) return false;
    this.#left = Number.parseInt(size, 16);
    this.#state = this.#left === 0 ? "trailer" : "data";
    return true;
  }
}
