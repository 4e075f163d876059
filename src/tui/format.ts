/** Numbers with their units, in the width a person reads at a glance. */

/** `850 ms`, `4.2 s`, `3 min 20 s`, `2 h 05 min`. */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** `0.862` → `86.2 %`. */
export function formatPercent(share: number): string {
  return Number.isFinite(share) ? `${(share * 100).toFixed(1)} %` : "–";
}

/** `12`, `940`, `5.12 k`, `1.30 M`. */
export function formatCount(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) < 1000) return Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 2 : 1);
  if (Math.abs(value) < 999_500) return `${(value / 1000).toPrecision(3)} k`;
  return `${(value / 1e6).toPrecision(3)} M`;
}

/** `512 B`, `3.3 MB`. Powers of ten. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** A small number such as a probability gap: `1.2e-5`. */
export function formatSmall(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  return value === 0 ? "0" : value.toExponential(1);
}

/** A learning rate or another setting, short and exact. */
export function formatValue(value: unknown): string {
  if (typeof value === "string") return value;
  return typeof value === "number" ? String(value) : JSON.stringify(value);
}

/** How far rollout was ahead of the step that was trained, where it is; with groups that got too old. */
export function stalenessText(metrics: Readonly<Record<string, number>>): string | undefined {
  const { "async/age/max": age = 0, "async/staleness/mean": mean = 0, "async/groups_dropped": dropped = 0 } = metrics;
  if (age === 0 && dropped === 0) return undefined;
  return `staleness ${mean.toFixed(2)}${dropped === 0 ? "" : `, ${dropped} ${dropped === 1 ? "group" : "groups"} dropped`}`;
}
