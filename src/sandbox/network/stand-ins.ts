/**
 * Addresses inside a sandbox that stand for names outside. Nothing leads out of a sandbox's network namespace, so a name is
 * answered with an address of its loopback device, one for each name, where its ports lead to the proxy. They listen while
 * the name is in use: programs of the sandbox may want to serve such a port on all addresses.
 */

/** 127.64.0.0/10; programs of one's own are rarely there. */
const FIRST = 0x7f40_0000;
const LAST = 0x7f7f_ffff;
/** After its name was asked for last, or its last connection ended. Answers are relied on for less (`NameServer`). */
const IDLE_MS = 120_000;
/** Each is a descriptor here and in the launcher, so a sandbox has so many, fewer where many are open, and all have an end. */
const MAX_PORTS = 32;
const MAX_PORTS_WHEN_MANY = 8;
const MANY = 1024;
const MAX_EVERYWHERE = 2048;
const PORTS_OF_NAME = 8;

/** Of all sandboxes. */
let openEverywhere = 0;

/** What opens ports in the sandbox. */
export interface StandInGates {
  /** @throws AleError where it is in use */
  open(address: string, port: number, name: string): Promise<void>;
  close(address: string, port: number): Promise<void>;
  /** Whether connections go through it. */
  isBusy(address: string, port: number): boolean;
}

interface StandIn {
  readonly name: string;
  readonly address: string;
  readonly ports: Set<number>;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** One call after the other: whoever calls sees to it. */
export class StandIns {
  readonly #gates: StandInGates;
  readonly #exclusively: <T>(work: () => Promise<T>) => Promise<T>;
  readonly #addresses = new Map<string, string>();
  /** The one that was asked for longest ago is first. */
  readonly #open = new Map<string, StandIn>();
  #ended = false;

  constructor(gates: StandInGates, exclusively: <T>(work: () => Promise<T>) => Promise<T>) {
    this.#gates = gates;
    this.#exclusively = exclusively;
  }

  /** The address that stands for `name`, listening at `ports` now, as far as they are free. @throws AleError where none can listen */
  async addressOf(name: string, ports: readonly number[]): Promise<string> {
    const address = this.#addresses.get(name) ?? addressAt(this.#addresses.size + 1);
    this.#addresses.set(name, address);
    const one: StandIn = this.#open.get(name) ?? { name, address, ports: new Set(), timer: undefined };
    this.#open.delete(name);
    this.#open.set(name, one);
    this.#rest(one);
    const wanted = ports.slice(0, PORTS_OF_NAME).filter((port) => !one.ports.has(port));
    let failure = await this.#makeRoom(one, wanted.length);
    for (const port of failure === undefined ? wanted : []) {
      try {
        if (openEverywhere >= MAX_EVERYWHERE) throw new Error("too many ports of all sandboxes are open");
        await this.#gates.open(address, port, name);
        if (this.#ended) break;
        one.ports.add(port);
        openEverywhere++;
      } catch (error) {
        failure = error; // a program of the sandbox has it; the others may do
      }
    }
    if (one.ports.size > 0) return address;
    await this.#close(one);
    throw failure ?? new Error("the name has no port");
  }

  /** Why there is none: connections go through all that might be closed. */
  async #makeRoom(wanting: StandIn, ports: number): Promise<unknown> {
    const most = openEverywhere > MANY ? MAX_PORTS_WHEN_MANY : MAX_PORTS;
    const inUse = () => [...this.#open.values()].reduce((sum, one) => sum + one.ports.size, 0);
    for (const one of [...this.#open.values()]) {
      if (inUse() + ports <= most) return undefined;
      if (one !== wanting && !this.#isBusy(one)) await this.#close(one);
    }
    return inUse() + ports <= most
      ? undefined
      : new Error("connections go through all addresses that names could have");
  }

  #isBusy({ address, ports }: StandIn): boolean {
    return [...ports].some((port) => this.#gates.isBusy(address, port));
  }

  /** Closes it after a time without use. */
  #rest(one: StandIn): void {
    clearTimeout(one.timer);
    const look = () =>
      this.#exclusively(async () => {
        if (this.#open.get(one.name) !== one) return;
        if (this.#isBusy(one)) this.#rest(one);
        else await this.#close(one);
      });
    one.timer = setTimeout(() => void look().catch(() => {}), IDLE_MS);
    one.timer.unref();
  }

  async #close(one: StandIn): Promise<void> {
    clearTimeout(one.timer);
    this.#open.delete(one.name);
    openEverywhere -= one.ports.size;
    const ports = [...one.ports];
    one.ports.clear();
    for (const port of ports) await this.#gates.close(one.address, port);
  }

  /** Closes all; names keep their addresses. */
  async clear(): Promise<void> {
    for (const one of [...this.#open.values()]) await this.#close(one);
  }

  /** Without a word to the sandbox, which has ended. */
  forget(): void {
    this.#ended = true;
    for (const { timer, ports } of this.#open.values()) {
      clearTimeout(timer);
      openEverywhere -= ports.size;
    }
    this.#open.clear();
  }
}

function addressAt(index: number): string {
  const value = FIRST + (index % (LAST - FIRST));
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join(".");
}
