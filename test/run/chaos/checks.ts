/** What must hold of a run whatever was killed: see `checkCommitted` and `checkFinished`. */

import { Database } from "bun:sqlite";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface Shape {
  readonly steps: number;
  readonly groups: number;
  readonly groupSize: number;
  /** Steps a trajectory may be older than the weights it trains. */
  readonly bound: number;
}

/** What a store says of a run. */
interface Committed {
  /** Newest step; −1 before the first commit. */
  readonly step: number;
  readonly problems: readonly string[];
}

type Row = Readonly<Record<string, number | string | null>>;

/** What the store says of the run in that directory; undefined when it knows none. */
export function runStatus(store: string, outDir: string): string | undefined {
  if (!existsSync(store)) return undefined;
  using database = new Database(store, { readonly: true });
  const query = "SELECT status FROM runs WHERE out_dir = ?1";
  return database.query<{ status: string }, [string]>(query).get(outDir)?.status;
}

/** Looks at a run between two kills: whole steps, every episode once. `before` is what was committed before the kill. */
export function checkCommitted(store: string, outDir: string, shape: Shape, before: number): Committed {
  if (!existsSync(store)) return { step: -1, problems: before < 0 ? [] : [`the store is gone, at step ${before}`] };
  using database = new Database(store, { readonly: true });
  const ask = (query: string) => database.query<Row, [string]>(query).all(outDir);
  const run = "run_id = (SELECT id FROM runs WHERE out_dir = ?1)";
  const steps = ask(`SELECT step FROM steps WHERE ${run} ORDER BY step`).map(({ step }) => Number(step));
  const step = steps.at(-1) ?? -1;
  const whole = ask(
    `SELECT e.step AS step, g.key AS key, count(*) AS episodes, count(DISTINCT e.member) AS members FROM episodes e
     JOIN groups g ON g.id = e.group_id WHERE e.${run} AND e.purpose = 'train' AND e.step <= ${step} GROUP BY e.step, g.key`,
  );
  const doubled = ask(
    `SELECT p.key FROM pending_episodes p JOIN episodes e ON e.key = p.key
     WHERE p.${run} AND p.until_step IS NULL AND e.step <= ${step}`,
  );
  const groups = new Map<number, number>();
  for (const group of whole) groups.set(Number(group.step), (groups.get(Number(group.step)) ?? 0) + 1);
  const torn = whole.filter(({ episodes, members }) => episodes !== shape.groupSize || members !== shape.groupSize);
  const trained = steps.filter((one) => one > 0);
  return {
    step,
    problems: [
      ...(step < before ? [`step ${before} was committed, and is lost: the newest is ${step}`] : []),
      ...(steps.every((one, i) => one === i) ? [] : [`the steps are ${steps.join(", ")}`]),
      ...torn.map(({ key, episodes }) => `group ${key} has ${episodes} episodes`),
      ...trained.filter((s) => groups.get(s) !== shape.groups).map((s) => `step ${s} has ${groups.get(s) ?? 0} groups`),
      ...doubled.map(({ key }) => `episode ${key} was trained on and waits for training`),
    ],
  };
}

/** Metrics without measured times, which in a deterministic run are a function of the seed; a line per step. */
export function exactMetrics(outDir: string): readonly Readonly<Record<string, unknown>>[] {
  return lines(outDir, "metrics.jsonl").map((row) =>
    Object.fromEntries(Object.entries(row).filter(([name]) => !/^(timing_s|perf)\//.test(name))),
  );
}

/** In what the metrics of a run differ from those of an undisturbed one. */
export function differences(got: ReturnType<typeof exactMetrics>, expected: ReturnType<typeof exactMetrics>): string[] {
  return expected.flatMap((row, step) => {
    const names = new Set([...Object.keys(row), ...Object.keys(got[step] ?? {})]);
    return [...names].flatMap((name) => {
      const [is, was] = [got[step]?.[name], row[name]];
      return Object.is(is, was) ? [] : [`step ${step}: ${name} is ${is}, ${was} without kills`];
    });
  });
}

/** Looks at the results of a finished run. */
export function checkFinished(outDir: string, shape: Shape): string[] {
  const metrics = lines(outDir, "metrics.jsonl");
  const episodes = lines(outDir, "trajectories.jsonl").filter(({ purpose }) => purpose === "train");
  const summary = JSON.parse(readFileSync(join(outDir, "summary.json"), "utf8"));
  const expected = shape.steps * shape.groups * shape.groupSize;
  const ids = new Set(episodes.map((episode) => episode.episode_id));
  const perStep = Map.groupBy(episodes, ({ step }) => step);
  const problems = [
    ...(summary.status === "finished" ? [] : [`summary.json says ${summary.status}`]),
    ...(metrics.length === shape.steps + 1 ? [] : [`metrics.jsonl has ${metrics.length} lines`]),
    ...(metrics.every(({ step }, i) => step === i) ? [] : ["metrics.jsonl is not in the order of steps"]),
    ...(episodes.length === expected && ids.size === expected
      ? []
      : [`${episodes.length} episodes with ${ids.size} ids instead of ${expected}`]),
  ];
  for (const [step, own] of perStep) {
    const groups = new Set(own.map((episode) => episode.group_id));
    if (groups.size !== shape.groups) problems.push(`step ${step} has ${groups.size} groups`);
  }
  return [...problems, ...checkStaleness(metrics, episodes, shape.bound)];
}

/** Ages by the run's own metrics, and staleness by the version of every sampled token, counted in published versions. */
function checkStaleness(
  metrics: ReturnType<typeof lines>,
  episodes: ReturnType<typeof lines>,
  bound: number,
): string[] {
  const old = metrics.filter((row) => Number(row["async/age/max"] ?? 0) > bound);
  // A step that had nothing to learn from publishes nothing.
  const published = metrics.filter((row) => row.step === 0 || row["actor/updates"] !== 0).map(({ step }) => step);
  const stale = episodes.flatMap(({ episode_id, step, mask, weight_versions, kv_oldest }) => {
    const sampled = (mask as number[]).flatMap((bit, t) => (bit === 1 ? [t] : []));
    const versions = [weight_versions, kv_oldest].flatMap((list) =>
      sampled.map((t) => (list as number[])[t] as number),
    );
    const oldest = Math.min(...versions, Number(step) - 1);
    const staleness = published.filter((version) => Number(version) > oldest && Number(version) < Number(step)).length;
    return staleness > bound ? [`episode ${episode_id} of step ${step} is ${staleness} versions stale`] : [];
  });
  return [...old.map((row) => `a group of step ${row.step} is ${row["async/age/max"]} steps old`), ...stale];
}

function lines(outDir: string, name: string): Readonly<Record<string, unknown>>[] {
  const text = readFileSync(join(outDir, name), "utf8");
  return text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}
