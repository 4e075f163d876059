/** Sandboxes of a service elsewhere. */

import { AleError } from "../../core/errors.ts";
import { refuseWeaker } from "../../core/isolation.ts";
import type { Sandbox, SandboxProvider, SandboxSnapshot } from "../../core/ports.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import { WarmPools } from "../warm-pools.ts";
import { type RemoteMachine, RemoteSandbox } from "./remote-sandbox.ts";

/** Sandboxes asked for at once in the background. */
const WARM_CONCURRENCY = 2;

/** Makes machines; `name` is that of the backend. */
export interface RemoteService {
  readonly name: string;
  /** @throws AleError("sandbox") when the service refuses or does not answer. */
  create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<RemoteMachine>;
}

export class RemoteProvider implements SandboxProvider {
  /** How well such a service isolates is its own affair, and nothing here can find it out. */
  readonly isolation: string;
  readonly #service: RemoteService;
  readonly #living = new Set<RemoteSandbox>();
  readonly #pools: WarmPools<RemoteSandbox>;
  #closed: Promise<void> | undefined;

  constructor(service: RemoteService) {
    this.#service = service;
    this.isolation = `${service.name}:remote`;
    this.#pools = new WarmPools({
      make: (environment) => this.#make(environment),
      concurrency: WARM_CONCURRENCY,
    });
  }

  async #make(environment: EnvironmentSpec, signal?: AbortSignal): Promise<RemoteSandbox> {
    if (this.#closed !== undefined) throw new AleError("sandbox", "the sandbox provider is closed");
    refuseWeaker(this.isolation, environment);
    if (environment.network !== undefined && environment.network.mode !== "none")
      throw new AleError("sandbox", `${this.#service.name} cannot be told what a sandbox may reach`, {
        hint: "use the backend native for tasks that need a network",
      });
    const machine = await this.#service.create(environment, signal);
    const sandbox = await RemoteSandbox.open(machine, environment, this.isolation);
    this.#living.add(sandbox);
    return sandbox;
  }

  async create(environment: EnvironmentSpec, signal?: AbortSignal): Promise<RemoteSandbox> {
    const sandbox = this.#pools.claim(environment, true) ?? (await this.#make(environment, signal));
    if (!signal?.aborted) return sandbox;
    await sandbox.destroy();
    throw new AleError("interrupted", "making a sandbox was cancelled", { cause: signal.reason });
  }

  async fork(snapshot: SandboxSnapshot): Promise<Sandbox> {
    throw new AleError("sandbox", `${snapshot.id} cannot be a sandbox of ${this.isolation}`);
  }

  warm(environment: EnvironmentSpec, count: number): void {
    refuseWeaker(this.isolation, environment);
    this.#pools.keep(environment, count, true);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** A service that does not answer any more ends them by itself, when their time to live is over. */
  async #close(): Promise<void> {
    this.#pools.close();
    await Promise.allSettled([...this.#living].map((sandbox) => sandbox.destroy()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
