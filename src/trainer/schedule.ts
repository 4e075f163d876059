/** Learning-rate schedules: linear warm-up, then constant, linear or cosine decay. */

export type ScheduleKind = "constant" | "linear" | "cosine";

export interface ScheduleSettings {
  readonly kind: ScheduleKind;
  /** Peak learning rate. */
  readonly base: number;
  /** Updates of warm-up; 0 = none. */
  readonly warmup: number;
  /** `from_zero`: the first update has rate 0, as in most frameworks; `plus_one`: it already has base / warmup. */
  readonly warmupFrom: "from_zero" | "plus_one";
  /** Updates after which the decay has reached its end. */
  readonly total: number;
  /** Final rate as a share of `base`. */
  readonly minRatio: number;
  /** Number of the update, from 0. */
  readonly update: number;
}

/**
 * Rate of one update. After warm-up, with p = (update − warmup) / (total − warmup) clipped to [0, 1]: `constant` is base,
 * `linear` is base · (m + (1 − m)(1 − p)), `cosine` is base · (m + (1 − m)(1 + cos πp) / 2), m = minRatio.
 */
export function learningRate(settings: ScheduleSettings): number {
  const { kind, base, warmup, warmupFrom, total, minRatio, update } = settings;
  if (update < warmup) return (base * (warmupFrom === "from_zero" ? update : update + 1)) / warmup;
  const progress = Math.min(1, Math.max(0, (update - warmup) / Math.max(1, total - warmup)));
  switch (kind) {
    case "constant":
      return base;
    case "linear":
      return base * (minRatio + (1 - minRatio) * (1 - progress));
    case "cosine":
      return base * (minRatio + ((1 - minRatio) * (1 + Math.cos(Math.PI * progress))) / 2);
  }
}
