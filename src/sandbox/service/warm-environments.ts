/** Which sandboxes a service has ready: some of each environment that was asked for lately, for nobody says beforehand. */

import type { EnvironmentSpec } from "../../core/types.ts";
import type { NativeSandboxProvider } from "../supervisor.ts";

/** Environments of the last requests. */
const MAX_ENVIRONMENTS = 4;

export class WarmEnvironments {
  readonly #provider: NativeSandboxProvider;
  readonly #count: number;
  /** The last that was asked for at the end. */
  readonly #recent = new Map<string, EnvironmentSpec>();

  /** @param count of each environment; 0: none. */
  constructor(provider: NativeSandboxProvider, count: number) {
    this.#provider = provider;
    this.#count = count;
  }

  /** Has sandboxes of this environment ready from now on, until others are asked for. They take no room of others. */
  note(environment: EnvironmentSpec): void {
    if (this.#count === 0) return;
    const key = JSON.stringify(environment);
    if (!this.#recent.delete(key)) this.#provider.warmBare(environment, this.#count);
    this.#recent.set(key, environment);
    const [oldest] = this.#recent;
    if (this.#recent.size <= MAX_ENVIRONMENTS || oldest === undefined) return;
    this.#recent.delete(oldest[0]);
    this.#provider.warmBare(oldest[1], 0);
  }

  clear(): void {
    for (const environment of this.#recent.values()) this.#provider.warmBare(environment, 0);
    this.#recent.clear();
  }
}
