/** What an operator lets tasks and clients ask of the network, whatever their own files say. */

import type { NetworkCapSettings } from "../../config/network-cap.ts";
import { AleError } from "../../core/errors.ts";
import type { NetworkMode, NetworkSpec, Task } from "../../core/types.ts";
import { covers, parseRule, type Rule } from "./policy.ts";

const ORDER: readonly NetworkMode[] = ["none", "allowlist", "public"];

/** What the two settings are called where the operator made them. */
export interface CapNames {
  readonly mode: string;
  readonly hosts: string;
}
export const EXPERIMENT_CAP: CapNames = { mode: "sandbox.mostNetwork", hosts: "sandbox.networkHosts" };
export const SERVICE_CAP: CapNames = { mode: "--most-network", hosts: "--network-host" };

/** Who asks, and what the keys of mode and list are called there. */
export interface Asker {
  readonly who: string;
  readonly mode: string;
  readonly hosts: string;
}

/** A client of the service, or what it archived. */
export const REQUEST: Asker = { who: "the request", mode: "network.mode", hosts: "network.allow" };

export class NetworkCap {
  readonly #settings: NetworkCapSettings;
  readonly #names: CapNames;
  readonly #rules: readonly Rule[] | undefined;

  /** @throws AleError("usage") naming the host that is none. */
  constructor(settings: NetworkCapSettings, names: CapNames) {
    this.#settings = settings;
    this.#names = names;
    this.#rules = settings.networkHosts?.map(parseRule);
  }

  /** @throws AleError("usage") naming who asks for too much, the key, and the cap. */
  check({ who, mode, hosts }: Asker, { mode: asked, allow }: NetworkSpec): void {
    const { mostNetwork, networkHosts = [] } = this.#settings;
    const refuse = (what: string, cap: string, hint: string) => {
      throw new AleError("usage", `${who}: ${what}, and ${cap}`, { hint });
    };
    if (ORDER.indexOf(asked) > ORDER.indexOf(mostNetwork))
      refuse(
        `${mode} asks for ${JSON.stringify(asked)}`,
        `${this.#names.mode} allows ${JSON.stringify(mostNetwork)} at most`,
        `ask for less, or have ${this.#names.mode} raised`,
      );
    const rules = this.#rules;
    if (rules === undefined) return;
    const over = allow.find((text) => !rules.some((rule) => covers(rule, parseRule(text))));
    if (over !== undefined)
      refuse(
        `${hosts} lists ${JSON.stringify(over)}`,
        `${this.#names.hosts} allows ${networkHosts.join(", ")} only`,
        `leave it out, or have it added to ${this.#names.hosts}`,
      );
  }

  /** @throws AleError("usage") as `check`, for both phases of a task */
  checkTask({ id, environment, verifierNetwork }: Pick<Task, "id" | "environment" | "verifierNetwork">): void {
    const phases = { agent: environment.network, verifier: verifierNetwork };
    for (const [table, network] of Object.entries(phases)) {
      const asker = { who: `task ${id}`, mode: `${table}.network_mode`, hosts: `${table}.allowed_hosts` };
      if (network !== undefined) this.check(asker, network);
    }
  }
}
