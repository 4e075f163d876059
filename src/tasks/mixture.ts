/** Several suites as one. */

import { AleError } from "../core/errors.ts";
import type { Split } from "../core/types.ts";
import type { Suite, TaskSampler } from "./suite.ts";

export interface SuitePart {
  readonly suite: Suite;
  /** Tasks from it, relative to the other parts. */
  readonly weight: number;
}

/**
 * A suite with the families of all parts, sampled in proportion to their weights.
 * @throws AleError("task") when two parts have a family of the same name.
 */
export function mixSuites(parts: readonly SuitePart[]): Suite {
  const owners = new Map<string, SuitePart>();
  for (const part of parts) {
    for (const family of part.suite.families) {
      const other = owners.get(family)?.suite.name;
      if (other !== undefined) {
        throw new AleError("task", `the suites ${other} and ${part.suite.name} both have a family ${family}`, {
          hint: "leave one of them out with `families` in [[tasks.mix]]",
        });
      }
      owners.set(family, part);
    }
  }
  const families = [...owners.keys()].sort();
  const name = parts.map(({ suite }) => suite.name).join("+");
  const owner = (family: string): SuitePart => {
    const part = owners.get(family);
    if (part !== undefined) return part;
    throw new AleError("task", `the suites ${name} have no family ${JSON.stringify(family)}`, {
      hint: `they have ${families.join(", ")}`,
    });
  };
  return {
    name,
    families,
    family: (family) => owner(family).suite.family(family),
    render: (family, split, seed) => owner(family).suite.render(family, split, seed),
    weight: (family) => {
      const { suite, weight } = owner(family);
      return weight / suite.families.length;
    },
    sampler: (seed, split) => mixedSampler(parts, seed, split),
  };
}

/**
 * Which part each position belongs to, by smooth weighted round-robin: among any n positions in a row a part has its share
 * of them, give or take one. A function of the position alone; what was worked out is kept.
 */
function mixedSampler(parts: readonly SuitePart[], seed: number, split: Split): TaskSampler {
  const samplers = parts.map(({ suite }) => suite.sampler(seed, split));
  const total = parts.reduce((sum, { weight }) => sum + weight, 0);
  const credit = parts.map(() => 0);
  const counts = parts.map(() => 0);
  /** Part of each position, and how many positions of that part there were before. */
  const known: { readonly part: number; readonly index: number }[] = [];
  return {
    at: (position) => {
      while (known.length <= position) {
        for (const [i, { weight }] of parts.entries()) credit[i] = (credit[i] as number) + weight;
        const part = credit.indexOf(Math.max(...credit));
        credit[part] = (credit[part] as number) - total;
        const index = counts[part] as number;
        counts[part] = index + 1;
        known.push({ part, index });
      }
      const { part, index } = known[position] as (typeof known)[number];
      return (samplers[part] as TaskSampler).at(index);
    },
  };
}
