/**
 * How much may run at once. Requests are served in the order they came: one that does not fit yet holds back those behind
 * it, so that a large one is not starved by small ones.
 */

import { AleError } from "../../core/errors.ts";
import { beginWait } from "../../core/waits.ts";
import type { Clock } from "./clock.ts";

/** What sandboxes take, and what there is. */
export interface Resources {
  readonly memoryBytes: number;
  readonly cpus: number;
  readonly diskBytes: number;
  readonly count: number;
}

const KEYS = ["memoryBytes", "cpus", "diskBytes", "count"] as const;
const NAMES: Readonly<Record<(typeof KEYS)[number], string>> = {
  memoryBytes: "memory",
  cpus: "cpus",
  diskBytes: "disk",
  count: "sandboxes",
};
const MIB = 2 ** 20;
/** As requests give it. */
const amount = (key: (typeof KEYS)[number], value: number) =>
  key === "memoryBytes" || key === "diskBytes" ? `${Math.floor(value / MIB)} MB` : `${Math.round(value * 100) / 100}`;

export const NO_RESOURCES: Resources = { memoryBytes: 0, cpus: 0, diskBytes: 0, count: 0 };

export function addResources(a: Resources, b: Resources, sign: 1 | -1 = 1): Resources {
  return {
    memoryBytes: a.memoryBytes + sign * b.memoryBytes,
    cpus: a.cpus + sign * b.cpus,
    diskBytes: a.diskBytes + sign * b.diskBytes,
    count: a.count + sign * b.count,
  };
}

/** What of `need` is more than `room` has, with both. */
function lacking(need: Resources, room: Resources): string[] {
  // Sums of fractions of processors are not exact.
  return KEYS.filter((key) => need[key] > room[key] * (1 + 1e-9)).map(
    (key) => `${NAMES[key]} (${amount(key, need[key])} of ${amount(key, Math.max(0, room[key]))})`,
  );
}

/** There is no room, now or ever. */
export class NotAdmitted extends AleError {
  constructor(message: string, hint: string) {
    super("sandbox", message, { hint });
    this.name = "NotAdmitted";
  }
}

/** Room that was given; giving it back twice is once. */
export interface Grant {
  readonly need: Resources;
  /** Gives back all, or all but `kept`. */
  release(kept?: Resources): void;
}

interface Waiting {
  readonly who: string;
  readonly need: Resources;
  readonly admit: () => void;
  readonly refuse: (error: AleError) => void;
}

export interface AdmissionRequest {
  /** The name of the sandbox, for the list of waits. */
  readonly who: string;
  readonly need: Resources;
  /** The longest it waits in the queue, in milliseconds; 0: not at all. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}

export class Admission {
  readonly capacity: Resources;
  readonly #clock: Clock;
  #used = NO_RESOURCES;
  #queue: Waiting[] = [];

  constructor(capacity: Resources, clock: Clock) {
    this.capacity = capacity;
    this.#clock = clock;
  }

  get used(): Resources {
    return this.#used;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#queue.length;
  }

  /**
   * Resolves when there is room.
   * @throws NotAdmitted when there never is, or not in time; AleError("interrupted") when it was cancelled.
   */
  async request({ who, need, deadlineMs, signal }: AdmissionRequest): Promise<Grant> {
    const never = lacking(need, this.capacity);
    if (never.length > 0)
      throw new NotAdmitted(
        `sandbox ${who} asks for more than there is: ${never.join(", ")}`,
        "ask for less, or give the service more",
      );
    if (this.#queue.length === 0 && this.#fits(need)) return this.#grant(need);
    await this.#wait(who, need, deadlineMs, signal);
    return this.#grant(need, true);
  }

  #wait(who: string, need: Resources, deadlineMs: number, signal: AbortSignal | undefined): Promise<void> {
    const endWait = beginWait(`sandbox ${who}`, "room among the others", deadlineMs);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting: Waiting = { who, need, admit: resolve, refuse: reject };
    const leave = (error: AleError) => {
      this.#queue = this.#queue.filter((other) => other !== waiting);
      reject(error);
      this.#serve(); // those behind it may fit
    };
    const cancel = this.#clock.after(deadlineMs, () => {
      const why = lacking(need, addResources(this.capacity, this.#used, -1));
      const before = this.#queue.indexOf(waiting);
      const behind = before > 0 ? `; ${before} are waiting before it` : "";
      const lack = why.length > 0 ? `: it lacks ${why.join(", ")}` : "";
      leave(
        new NotAdmitted(
          `sandbox ${who} found no room within ${deadlineMs} ms${lack}${behind}`,
          "delete some, ask for less, or wait longer",
        ),
      );
    });
    const abort = () => leave(new AleError("interrupted", `waiting for sandbox ${who} was cancelled`));
    signal?.addEventListener("abort", abort, { once: true });
    this.#queue.push(waiting);
    this.#serve();
    if (signal?.aborted) abort();
    return promise.finally(() => {
      cancel();
      endWait();
      signal?.removeEventListener("abort", abort);
    });
  }

  #fits(need: Resources): boolean {
    return lacking(need, addResources(this.capacity, this.#used, -1)).length === 0;
  }

  /** `taken`: the room was set aside when it became free. */
  #grant(need: Resources, taken = false): Grant {
    if (!taken) this.#used = addResources(this.#used, need);
    let held = need;
    return {
      need,
      release: (kept = NO_RESOURCES) => {
        this.#used = addResources(addResources(this.#used, held, -1), kept);
        held = kept;
        this.#serve();
      },
    };
  }

  #serve(): void {
    for (let first = this.#queue[0]; first !== undefined && this.#fits(first.need); first = this.#queue[0]) {
      this.#queue.shift();
      this.#used = addResources(this.#used, first.need);
      first.admit();
    }
  }
}
