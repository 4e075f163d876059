/** Fork trees: one task's expert, the states that episodes were started from along it, and how many of them succeeded. */

import type { EpisodeRecord, MetricsRow, RunRecord } from "../../store/records.ts";
import type { Store } from "../../store/store.ts";
import { type Html, type HtmlValue, html } from "./html.ts";

export interface ForkBranch {
  /** Chunks before this one are the expert's; 1 is from scratch. */
  readonly anchor: number;
  readonly solved: number;
  readonly episodes: number;
}

export interface ForkTree {
  readonly step: number;
  readonly taskId: string;
  readonly instruction: string | null;
  /** The episode that was the expert, or `oracle`. */
  readonly expert: string;
  readonly chunks: number;
  /** In order of their anchors. */
  readonly branches: readonly ForkBranch[];
  /** Commands that lead to success, by chunk from 1, as far as an episode shows them. */
  readonly commands: ReadonlyMap<number, string>;
}

/** The default of `resampling.drop`. */
const CRUCIAL_RISE = 0.2;
/** Episodes of a step that are looked through. */
const STEP_EPISODES = 2000;

/** A tree of the first and one of the last step that started episodes from an expert's states: of the task with most of them. */
export async function readForkTrees(store: Store, run: RunRecord, metrics: readonly MetricsRow[]): Promise<ForkTree[]> {
  const steps = metrics.filter((row) => (row.metrics["resampling/episodes"] ?? 0) > 0).map(({ step }) => step);
  const chosen = [...new Set([steps[0], steps.at(-1)])];
  const trees = await Promise.all(chosen.map((step) => (step === undefined ? undefined : readTree(store, run, step))));
  return trees.filter((tree) => tree !== undefined);
}

async function readTree(store: Store, run: RunRecord, step: number): Promise<ForkTree | undefined> {
  const filter = { runId: run.id, step, purpose: "train" as const };
  const { episodes } = await store.readEpisodes(filter, { limit: STEP_EPISODES });
  const byTask = Map.groupBy(episodes, ({ taskId }) => taskId);
  const forked = (rows: readonly EpisodeRecord[]) => rows.filter(({ forkAnchor }) => forkAnchor !== null).length;
  const [most] = [...byTask.values()].sort((a, b) => forked(b) - forked(a));
  const first = most?.find(({ forkAnchor }) => forkAnchor !== null);
  if (most === undefined || first === undefined) return undefined;
  const branches = branchesOf(most);
  const source = first.forkExpert ?? "oracle";
  const shown = source === "oracle" ? earliestSuccess(most) : source;
  const detail = shown === undefined ? undefined : await store.readEpisode(shown);
  return {
    step,
    taskId: first.taskId,
    instruction: detail?.instruction ?? null,
    expert: source,
    chunks: first.forkChunks ?? 1,
    branches,
    commands: new Map((detail?.turns ?? []).map(({ index, command }) => [index + 1, command])),
  };
}

export function branchesOf(episodes: readonly Pick<EpisodeRecord, "forkAnchor" | "reward">[]): ForkBranch[] {
  const groups = Map.groupBy(episodes, ({ forkAnchor }) => forkAnchor ?? 1);
  return [...groups]
    .map(([anchor, rows]) => ({
      anchor,
      solved: rows.filter(({ reward }) => reward >= 1).length,
      episodes: rows.length,
    }))
    .sort((a, b) => a.anchor - b.anchor);
}

/** The solved episode that shows most of the way. */
function earliestSuccess(episodes: readonly EpisodeRecord[]): string | undefined {
  const solved = episodes.filter(({ reward }) => reward >= 1);
  return solved.sort((a, b) => (a.forkAnchor ?? 1) - (b.forkAnchor ?? 1))[0]?.id;
}

const WIDTH = 940;
const [LEFT, RIGHT, SPINE, BAR_TOP, BAR_HEIGHT, BAR_WIDTH] = [70, 40, 46, 92, 64, 22];

/** The expert as a row of chunks, a branch down from each anchor, and the share of successes at its end. */
export function forkTree(tree: ForkTree): Html {
  const { chunks, branches } = tree;
  const gap = (WIDTH - LEFT - RIGHT) / Math.max(1, chunks);
  const at = (chunk: number) => Number((LEFT + (chunk - 1) * gap).toFixed(1));
  const height = BAR_TOP + BAR_HEIGHT + 40;
  const nodes = Array.from({ length: chunks }, (_, i) => {
    const x = Number((at(i + 1) + gap / 2).toFixed(1));
    return html`<circle class="dot blue" cx="${x}" cy="${SPINE}" r="5"/><text class="middle" x="${x}" y="${SPINE - 14}">${i + 1}</text>`;
  });
  const title = `Fork tree of ${tree.taskId}, step ${tree.step}`;
  return html`<svg class="chart" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${title}"><title>${title}</title>
<text class="label" x="0" y="${SPINE - 14}">chunk</text><text class="label" x="0" y="${SPINE + 4}">expert</text>
<text class="label" x="0" y="${BAR_TOP + BAR_HEIGHT}">success</text>
<line class="line blue" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${SPINE}" y2="${SPINE}"/>
${crucialSpans(tree).map(([from, to]) => html`<line class="line orange" x1="${at(from)}" x2="${at(to)}" y1="${SPINE}" y2="${SPINE}"/>`)}${nodes}
${branches.map((branch) => drawBranch(branch, at(branch.anchor)))}
</svg>`;
}

/** Stretches of the expert from one anchor to the next over which success rises; after the last one the whole expert succeeds. */
export function crucialSpans({ branches, chunks }: Pick<ForkTree, "branches" | "chunks">): [number, number][] {
  const success = branches.map(({ solved, episodes }) => solved / episodes);
  return branches.flatMap(({ anchor }, i): [number, number][] => {
    const rise = (success[i + 1] ?? 1) - (success[i] as number);
    return rise > CRUCIAL_RISE ? [[anchor, branches[i + 1]?.anchor ?? chunks + 1]] : [];
  });
}

function drawBranch({ anchor, solved, episodes }: ForkBranch, x: number): Html {
  const filled = Number(((BAR_HEIGHT * solved) / episodes).toFixed(1));
  const bottom = BAR_TOP + BAR_HEIGHT;
  const left = x - BAR_WIDTH / 2;
  const name = anchor === 1 ? "from scratch" : `anchor ${anchor}`;
  return html`<path class="line grey" d="M${x} ${SPINE} V${BAR_TOP}"/>
<rect class="track" x="${left}" y="${BAR_TOP}" width="${BAR_WIDTH}" height="${BAR_HEIGHT}"/>
<rect class="solved" x="${left}" y="${bottom - filled}" width="${BAR_WIDTH}" height="${filled}"/>
<text class="strong middle" x="${x}" y="${bottom + 16}">${solved}/${episodes}</text>
<text class="middle" x="${x}" y="${bottom + 32}">${name}</text>`;
}

export function forkSection(trees: readonly ForkTree[]): HtmlValue {
  if (trees.length === 0) return null;
  return html`<section><h2>Episodes from an expert's states</h2>
<p class="note">Each branch is a group of episodes: the chunks before its anchor are the expert's, the rest the policy's. Where success rises by more than 20 points from one anchor to the next (orange), a chunk between them is crucial.</p>
${trees.map(
  (tree) => html`<h3>Step ${tree.step}: ${tree.taskId}, expert ${tree.expert}</h3>
<div class="card scroll forks">${forkTree(tree)}${commandList(tree)}</div>`,
)}</section>`;
}

function commandList({ instruction, commands, chunks }: ForkTree): HtmlValue {
  if (commands.size === 0) return null;
  const rows = Array.from(
    { length: chunks },
    (_, i) => commands.get(i + 1) ?? (i + 1 === chunks ? "(done)" : "(the expert's)"),
  );
  return html`<details><summary>Commands</summary>${instruction !== null && html`<p>${instruction}</p>`}
<ol>${rows.map((command) => html`<li><code>${command}</code></li>`)}</ol></details>`;
}
