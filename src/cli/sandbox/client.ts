/** The sandboxes of a running `ale serve`, from another process. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { aleHome } from "../../config/paths.ts";
import { AleError, errorMessage } from "../../core/errors.ts";
import type { CommandLine } from "../command-line.ts";

export const DEFAULT_URL = "http://127.0.0.1:4242";

export interface ServiceFlags {
  readonly url?: string;
}

export function addServiceOption(command: Command): Command {
  return command.option("--url <url>", `the service that has the sandboxes (default: ALE_URL, or ${DEFAULT_URL})`);
}

/** What the service tells about a sandbox; more than is used here. */
export interface SandboxView {
  readonly id: string;
  readonly state: string;
  readonly reason: string;
  readonly profile: string;
  readonly image: string | null;
  readonly memoryMb: number;
  readonly cpus: number;
  readonly createdAt: string;
  readonly expiresAt: string | null;
  readonly expiresBy: string | null;
  readonly labels: Readonly<Record<string, string>>;
}

export class ServiceClient {
  readonly url: string;
  readonly #token: string;

  constructor(cli: CommandLine, flags: ServiceFlags) {
    this.url = (flags.url ?? cli.env.ALE_URL ?? DEFAULT_URL).replace(/\/+$/, "");
    this.#token = cli.env.ALE_TOKEN ?? readToken(join(aleHome(cli.env), "token"));
  }

  /** @throws AleError("service") when nobody answers; AleError("usage") with what the service says. */
  send(method: string, path: string, body?: unknown): Promise<Response> {
    return this.request(method, `/v1/sandboxes${path}`, body);
  }

  /** As `send`, for another path of the service. */
  async request(method: string, path: string, body?: unknown): Promise<Response> {
    const raw = body instanceof Uint8Array;
    let response: Response;
    try {
      response = await fetch(`${this.url}${path}`, {
        method,
        headers: { Authorization: `Bearer ${this.#token}`, ...(raw ? {} : { "Content-Type": "application/json" }) },
        ...(body === undefined ? {} : { body: raw ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body) }),
        // Commands may take as long as they like; the service limits them.
        timeout: false,
      } as RequestInit);
    } catch (cause) {
      throw new AleError("service", `no service answers at ${this.url}: ${errorMessage(cause)}`, {
        hint: "start one: ale serve; or name it: --url http://127.0.0.1:PORT",
        cause,
      });
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async json<T>(method: string, path: string, body?: unknown): Promise<T> {
    return (await (await this.send(method, path, body)).json()) as T;
  }

  async bytes(path: string): Promise<Uint8Array> {
    return new Uint8Array(await (await this.send("GET", path)).arrayBuffer());
  }

  async list(): Promise<readonly SandboxView[]> {
    return (await this.json<{ sandboxes: readonly SandboxView[] }>("GET", "")).sandboxes;
  }
}

function readToken(path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch (cause) {
    throw new AleError("service", `the token of the service, ${path}, cannot be read`, {
      hint: "start one as this user: ale serve; or give its token as ALE_TOKEN",
      cause,
    });
  }
}

async function refusal(response: Response): Promise<AleError> {
  const said = (await response.json().catch(() => ({}))) as { error?: { message?: string; hint?: string | null } };
  const message = said.error?.message ?? `the service answers ${response.status}`;
  return new AleError(response.status === 401 ? "service" : "usage", message, {
    hint: said.error?.hint ?? "ale sandbox ps",
  });
}
