/** The service as the page sees it. */

import type { AleEvent, EventOf, EventType } from "../core/events.ts";
import type { Wait } from "../core/waits.ts";
import type {
  AlertRecord,
  EpisodeDetail,
  EpisodePage,
  EvaluationRecord,
  FamilyRecord,
  MetricsRow,
  RunRecord,
} from "../store/records.ts";

export interface RunDetail {
  readonly run: RunRecord;
  readonly evaluations: readonly EvaluationRecord[];
  readonly configuration: string | null;
}

/** Token arrays arrive as plain lists. */
export interface EpisodeView extends Omit<EpisodeDetail, "tokens"> {
  readonly tokens: {
    readonly ids: readonly number[];
    readonly mask: readonly number[];
    readonly logprobs: readonly number[];
    readonly versions: readonly number[];
    readonly turnIds: readonly number[];
    /** Null where the run's tokenizer is gone. */
    readonly texts: readonly string[] | null;
  };
}

/** Evidence of a sandbox of the service is told only to who has the token. */
export interface AlertView extends Omit<AlertRecord, "evidence"> {
  readonly evidence: string | null;
}

export interface EpisodeQuery {
  readonly run: string;
  readonly purpose?: string;
  readonly family?: string;
  readonly solved?: string;
  readonly step?: string;
  readonly cursor?: string;
}

async function request<T>(path: string, init?: RequestInit): Promise<T> {
  const response = await fetch(path, init);
  const body: unknown = await response.json().catch(() => undefined);
  if (response.ok) return body as T;
  const error = (body as { error?: { message?: string } } | undefined)?.error;
  throw new Error(error?.message ?? `${path}: ${response.status}`);
}

export const readRuns = async () => (await request<{ runs: RunRecord[] }>("/v1/runs")).runs;

export const readRun = (id: string) => request<RunDetail>(`/v1/runs/${encodeURIComponent(id)}`);

export const readMetrics = async (id: string) =>
  (await request<{ rows: MetricsRow[] }>(`/v1/runs/${encodeURIComponent(id)}/metrics`)).rows;

export const readWaits = (id: string) =>
  request<{ at: number; waiting: Wait[] }>(`/v1/runs/${encodeURIComponent(id)}/waiting`);

export const readFamilies = async (id: string) =>
  (await request<{ families: FamilyRecord[] }>(`/v1/tasks?run=${encodeURIComponent(id)}`)).families;

export const readEpisode = (id: string) => request<EpisodeView>(`/v1/episodes/${encodeURIComponent(id)}`);

export function readEpisodes(query: EpisodeQuery): Promise<EpisodePage> {
  const parameters = new URLSearchParams({ limit: "50" });
  for (const [name, value] of Object.entries(query))
    if (value !== undefined && value !== "") parameters.set(name, value);
  return request<EpisodePage>(`/v1/episodes?${parameters}`);
}

export function readAlerts(query: { run?: string; kind?: string; cursor?: string }, token: string | undefined) {
  const init = token === undefined ? {} : { headers: { Authorization: `Bearer ${token}` } };
  return request<{ alerts: AlertView[]; nextCursor: string | null }>(`/v1/alerts?${new URLSearchParams(query)}`, init);
}

export const stopRun = (id: string, token: string) =>
  request(`/v1/runs/${encodeURIComponent(id)}/stop`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });

const FOLLOWED: readonly EventType[] = [
  "run.started",
  "step.started",
  "step.finished",
  "evaluation.started",
  "evaluation.finished",
  "episode.phase",
  "episode.finished",
  "progress",
  "guard.alert",
  "engine.restarted",
  "launcher.restarted",
  "run.finished",
];

/** Follows live events; the browser reconnects and resumes by itself. Returns the function that ends it. */
export function followEvents(runId: string, onEvent: (event: AleEvent) => void, onState: (live: boolean) => void) {
  const source = new EventSource(`/v1/events?run=${encodeURIComponent(runId)}`);
  source.onopen = () => onState(true);
  source.onerror = () => onState(false);
  for (const type of FOLLOWED) {
    source.addEventListener(type, (message: MessageEvent<string>) => {
      onEvent(JSON.parse(message.data) as EventOf<typeof type>);
    });
  }
  return () => source.close();
}
