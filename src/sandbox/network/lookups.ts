/** Names of one sandbox on their way to this machine's resolver: how many, how often, how much they say. */

import type { NetworkPolicy } from "./policy.ts";
import { type Resolve, Unreachable } from "./upstream.ts";

/** A name that is looked up is a message to whoever runs its zone. What is listed itself says nothing. */
const MAX_CHARACTERS = 32_768;
const MAX_AT_ONCE = 8;
/** A and AAAA of one name are asked for together. */
const KEPT_MS = 10_000;
const MAX_KEPT = 256;

interface Kept {
  readonly at: number;
  readonly found: Promise<readonly string[]>;
}

export class Lookups {
  readonly #resolve: Resolve;
  readonly #seen = new Set<string>();
  readonly #kept = new Map<string, Kept>();
  #characters = 0;
  #running = 0;

  constructor(resolve: Resolve) {
    this.#resolve = resolve;
  }

  /** Looked up now. `host` is one that `policy` allows. @throws Unreachable("denied") when the sandbox asks for too much */
  async find(host: string, policy: NetworkPolicy): Promise<readonly string[]> {
    if (!policy.lists(host) && !this.#seen.has(host)) {
      if (this.#characters + host.length > MAX_CHARACTERS)
        throw new Unreachable("denied", `the names that were looked up have more than ${MAX_CHARACTERS} characters`);
      this.#seen.add(host);
      this.#characters += host.length;
    }
    return this.#resolve(host);
  }

  /** As `find`, or as it was found a moment ago. */
  findLately(host: string, policy: NetworkPolicy): Promise<readonly string[]> {
    const now = performance.now();
    const kept = this.#kept.get(host);
    if (kept !== undefined && now - kept.at < KEPT_MS) return kept.found;
    if (this.#running >= MAX_AT_ONCE)
      return Promise.reject(new Unreachable("failed", `more than ${MAX_AT_ONCE} names looked up at once`));
    this.#running++;
    const found = this.find(host, policy).finally(() => {
      this.#running--;
    });
    const fresh = { at: now, found };
    this.#kept.delete(host);
    this.#kept.set(host, fresh);
    // What went wrong may go right the next time.
    found.catch(() => this.#kept.get(host) === fresh && this.#kept.delete(host));
    const [oldest] = this.#kept.keys();
    if (oldest !== undefined && this.#kept.size > MAX_KEPT) this.#kept.delete(oldest);
    return found;
  }
}
