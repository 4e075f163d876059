/** What a guard sees of a sandbox from outside: its processes at a moment. */

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

export interface Observation {
  /** Milliseconds, of one clock for all observations. */
  readonly at: number;
  /** The first 1024. */
  readonly processes: readonly SeenProcess[];
}

/** The reply of the launcher's `OP_OBSERVE` (`launcher/observe.c`). */
export function decodeObservation(payload: Uint8Array, at: number): Observation {
  const parts = new TextDecoder().decode(payload).split("\0");
  const processes: SeenProcess[] = [];
  for (let i = 0; i + 1 < parts.length; i += 2) {
    const [pid = 0, start = 0, cpuUs = 0, switches = 0, written = -1] = (parts[i] as string).split(" ").map(Number);
    processes.push({
      ...{ pid, start, switches, cpuSeconds: cpuUs / 1e6 },
      written: written < 0 ? null : written,
      argv: (parts[i + 1] as string).split("\x1f"),
    });
  }
  return { at, processes };
}

/** Of the sandbox itself, as its own programs name it. */
export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d+){3}|0\.0\.0\.0|::1?|\[::1\])$/i.test(host);
}
