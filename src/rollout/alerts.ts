/** What an alert of the sandbox guards means for training: the trajectory is dropped, punished or kept. */

import type { GuardedConfig } from "../config/guards.ts";
import { ALERT_KINDS } from "../core/alerts.ts";
import type { Group, Trajectory } from "../core/types.ts";

/** Whether training leaves it out. It stays in its group and in the store. */
export function isDropped({ alerts }: Pick<Trajectory, "alerts">, { trajectories }: GuardedConfig): boolean {
  return trajectories === "drop" && alerts !== undefined && alerts.length > 0;
}

/** The members that training sees, with the rewards that it sees. */
export function trainable(members: readonly Trajectory[], config: GuardedConfig): readonly Trajectory[] {
  const kept = members.filter((member) => !isDropped(member, config));
  if (config.trajectories !== "punish") return kept;
  return kept.map((member) => (member.alerts?.length ? { ...member, reward: config.reward } : member));
}

/** Groups as training sees them; one whose members were all dropped has none. */
export function trainableGroups(groups: readonly Group[], config: GuardedConfig): Group[] {
  return groups.map((group) => ({ ...group, trajectories: trainable(group.trajectories, config) }));
}

/** `guards/<kind>`: trajectories with an alert of that kind; those that were dropped or punished. */
export function alertMetrics(groups: readonly Group[], config: GuardedConfig): Record<string, number> {
  const alerted = groups.flatMap(({ trajectories }) => trajectories).filter(({ alerts }) => alerts?.length);
  const withKind = (kind: string) =>
    alerted.filter(({ alerts }) => alerts?.some((alert) => alert.kind === kind)).length;
  return {
    ...Object.fromEntries(ALERT_KINDS.map((kind) => [`guards/${kind}`, withKind(kind)])),
    "guards/trajectories": alerted.length,
    "guards/dropped": config.trajectories === "drop" ? alerted.length : 0,
    "guards/punished": config.trajectories === "punish" ? alerted.length : 0,
  };
}
