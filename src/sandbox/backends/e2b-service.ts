/**
 * The client of E2B's control plane (`spec/openapi.yml` of https://github.com/e2b-dev/E2B). Sandboxes live for two minutes, and for
 * two more each time this process says so: what a killed one leaves is soon gone.
 */

import { z } from "zod";
import { AleError, deadline, errorMessage } from "../../core/errors.ts";
import type { EnvironmentSpec } from "../../core/types.ts";
import { ENVD_PORT, Envd, failureOf } from "./e2b-envd.ts";
import { E2bMachine } from "./e2b-machine.ts";
import type { RemoteService } from "./remote-provider.ts";
import type { RemoteMachine } from "./remote-sandbox.ts";

export interface E2bServiceOptions {
  /** Of the control plane. */
  readonly url: string;
  readonly token: string | undefined;
  /** Name or id; omitted: E2B's `base`. */
  readonly template?: string | undefined;
  /** How long a sandbox lives when nobody extends its life; by default two minutes. */
  readonly lifeMs?: number;
}

export const E2B_URL = "https://api.e2b.app";
const TEMPLATE = "base";
const REQUEST_MS = 60_000;
const START_MS = 180_000;
const LIFE_MS = 120_000;
/** So often in its life a sandbox gets a new one. */
const EXTENSIONS = 3;

const Created = z.object({
  sandboxID: z.string().regex(/^[A-Za-z0-9-]+$/),
  envdAccessToken: z.string().nullish(),
  domain: z.string().nullish(),
});

export class E2bService implements RemoteService {
  readonly name = "e2b";
  readonly #url: string;
  readonly #options: E2bServiceOptions;
  readonly #lifeMs: number;

  constructor(options: E2bServiceOptions) {
    this.#options = options;
    this.#url = options.url.replace(/\/+$/, "");
    this.#lifeMs = options.lifeMs ?? LIFE_MS;
  }

  /** Size and limits are the template's. */
  async create(_environment: EnvironmentSpec, signal?: AbortSignal): Promise<RemoteMachine> {
    const body = {
      ...{ templateID: this.#options.template ?? TEMPLATE, timeout: Math.ceil(this.#lifeMs / 1000), secure: true },
      ...{ allow_internet_access: false, metadata: { madeBy: "ale" } },
    };
    // Its answer has the only name of what was made, so it is waited for even when nobody wants the sandbox any more.
    const response = await this.#request("making a sandbox", START_MS, "POST", "/sandboxes", body);
    const created = Created.safeParse(await response.json().catch(() => undefined));
    if (!created.success)
      throw new AleError("sandbox", `making a sandbox: ${this.#url} does not answer as E2B does`, {
        hint: "look whether sandbox.url is the address of E2B's control plane",
      });
    const { sandboxID: id, envdAccessToken, domain } = created.data;
    const url = envdUrl(this.#url, id, domain ?? undefined);
    const envd = new Envd({ url, sandboxId: id, token: envdAccessToken ?? undefined });
    const extending = setInterval(() => this.#extend(id), this.#lifeMs / EXTENSIONS);
    extending.unref();
    const machine = new E2bMachine(id, envd, async () => {
      clearInterval(extending);
      await this.#request(`ending sandbox ${id}`, REQUEST_MS, "DELETE", `/sandboxes/${id}`, undefined, true);
    });
    if (!signal?.aborted) return machine;
    await machine.end();
    throw new AleError("interrupted", "making a sandbox was cancelled", { cause: signal.reason });
  }

  /** One that fails is followed by others; when all do, the next command says that the sandbox is gone. */
  #extend(id: string): void {
    const body = { timeout: Math.ceil(this.#lifeMs / 1000) };
    this.#request(`extending sandbox ${id}`, REQUEST_MS, "POST", `/sandboxes/${id}/timeout`, body).catch(() => {});
  }

  async #request(
    what: string,
    ms: number,
    method: string,
    path: string,
    body?: unknown,
    mayBeGone = false,
  ): Promise<Response> {
    const { token } = this.#options;
    const asking = fetch(`${this.#url}${path}`, {
      method,
      headers: { "Content-Type": "application/json", ...(token === undefined ? {} : { "X-API-Key": token }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    }).catch((error: unknown) => {
      throw new AleError("sandbox", `${what}: ${this.#url} does not answer: ${errorMessage(error)}`, {
        hint: "look whether the service runs and sandbox.url is its address",
        cause: error,
      });
    });
    const response = await deadline(`${what} at ${this.#url}`, ms, asking, "sandbox");
    if (response.ok || (mayBeGone && response.status === 404)) return response;
    const reason = await deadline(`${what} at ${this.#url}`, REQUEST_MS, failureOf(response), "sandbox");
    const hint = HINTS[response.status];
    throw new AleError("sandbox", `${what} (HTTP ${response.status}): ${reason}`, hint === undefined ? {} : { hint });
  }
}

const HINTS: Readonly<Record<number, string>> = {
  401: "set sandbox.tokenEnv to the environment variable that holds the API key; by default E2B_API_KEY",
  403: "the API key must be of a team that may use this template",
  404: "sandbox.image must be the name or id of a template; without it, it is base",
  429: "the account's limit of sandboxes or requests is reached: use fewer at once (sandbox.warm), or wait",
};

/**
 * Where the envd of a sandbox is: below the domain that the service named; otherwise below that of `api.DOMAIN`; otherwise at the
 * control plane's own address, which then tells sandboxes apart by the headers E2b-Sandbox-Id and E2b-Sandbox-Port.
 */
export function envdUrl(controlUrl: string, id: string, named: string | undefined): string {
  const { protocol, host } = new URL(controlUrl);
  const domain = named ?? (host.startsWith("api.") ? host.slice("api.".length) : undefined);
  return domain === undefined ? controlUrl : `${protocol}//${ENVD_PORT}-${id}.${domain}`;
}
