/** What a guard sees of a sandbox from outside: processes and sockets at a moment. */

export interface SeenProcess {
  readonly pid: number;
  /** Clock ticks since boot; with the pid it names a process. */
  readonly start: number;
  readonly cpuSeconds: number;
  /** Times its main thread waited of its own accord. */
  readonly switches: number;
  /** Bytes it wrote; null where that cannot be read. */
  readonly written: number | null;
  readonly argv: readonly string[];
}

export interface SeenSocket {
  readonly state: "listen" | "established" | "connecting" | "other";
  readonly local: Endpoint;
  readonly remote: Endpoint;
}

export interface Endpoint {
  readonly host: string;
  readonly port: number;
}

export interface Observation {
  /** Milliseconds, of one clock for all observations. */
  readonly at: number;
  readonly processes: readonly SeenProcess[];
  readonly sockets: readonly SeenSocket[];
  /** How many processes there are, those not listed included. */
  readonly processCount: number;
}

const STATES: Readonly<Record<string, SeenSocket["state"]>> = {
  "01": "established",
  "02": "connecting",
  "0A": "listen",
};

/** The reply of the launcher's `OP_OBSERVE` (`launcher/observe.c`). */
export function decodeObservation(payload: Uint8Array, at: number): Observation {
  const lines = new TextDecoder().decode(payload).split("\0");
  const processes: SeenProcess[] = [];
  const sockets: SeenSocket[] = [];
  for (let i = 0; i < lines.length; i++) {
    const [kind, ...fields] = (lines[i] as string).split(" ");
    if (kind === "p") processes.push(decodeProcess(fields, lines[++i] ?? ""));
    else if (kind === "t") sockets.push(decodeSocket(fields));
  }
  return { at, processes, sockets, processCount: processes.length };
}

function decodeProcess(fields: readonly string[], argv: string): SeenProcess {
  const [pid = 0, start = 0, cpuUs = 0, switches = 0, written = -1] = fields.map(Number);
  return {
    ...{ pid, start, switches, cpuSeconds: cpuUs / 1e6 },
    written: written < 0 ? null : written,
    argv: argv.split("\x1f"),
  };
}

function decodeSocket([state = "", local = "", remote = ""]: readonly string[]): SeenSocket {
  return { state: STATES[state] ?? "other", local: decodeEndpoint(local), remote: decodeEndpoint(remote) };
}

/** The kernel's form: the address as hexadecimal words in the machine's byte order, a colon, the port. */
function decodeEndpoint(text: string): Endpoint {
  const [address = "", port = "0"] = text.split(":");
  const words = address.match(/.{8}/g) ?? [];
  const bytes = words.flatMap((word) => (word.match(/../g) ?? []).reverse().map((byte) => Number.parseInt(byte, 16)));
  return { host: nameOf(bytes), port: Number.parseInt(port, 16) };
}

function nameOf(bytes: readonly number[]): string {
  const zeros = bytes.findIndex((byte) => byte !== 0);
  if (bytes.length === 4 || (zeros === 10 && bytes[10] === 255 && bytes[11] === 255)) return bytes.slice(-4).join(".");
  if (zeros < 0) return "::";
  if (zeros === 15 && bytes[15] === 1) return "::1";
  const hex = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return (hex.match(/.{4}/g) ?? []).join(":");
}

/** Of this sandbox itself. */
export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d+){3}|0\.0\.0\.0|::1?|\[::1\])$/i.test(host);
}
