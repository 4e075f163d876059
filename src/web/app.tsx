import { useEffect, useState } from "preact/hooks";
import type { RunRecord } from "../store/records.ts";
import { AlertList } from "./alert-list.tsx";
import { readRuns } from "./client.ts";
import { ago } from "./format.ts";
import { runAddress, useRoute } from "./route.ts";
import { RunView } from "./run-view.tsx";

/** How often the list of runs is read again. */
const LIST_MS = 5000;

/** In place of a run's id, which has a dash. */
const ALERTS = "alerts";

export function App({ token }: { readonly token: string | undefined }) {
  const route = useRoute();
  const { runs, error } = useRuns();
  const shown = route.runId ?? runs?.[0]?.id;
  return (
    <div class="layout">
      <aside class="sidebar">
        <h1>Ale</h1>
        <a class={route.runId === ALERTS ? "run active" : "run"} href={runAddress(ALERTS)}>
          Alerts
        </a>
        {runs?.map((run) => (
          <RunItem key={run.id} run={run} active={run.id === shown} />
        ))}
        {runs?.length === 0 && (
          <p class="muted">
            Nothing has been run yet: <code>ale run experiments/shell.toml</code>
          </p>
        )}
      </aside>
      <main>
        {error !== undefined && <p class="problem">The service does not answer: {error}</p>}
        {shown === ALERTS && <AlertList token={token} />}
        {shown !== undefined && shown !== ALERTS && (
          <RunView key={shown} runId={shown} episodeId={route.episodeId} token={token} />
        )}
      </main>
    </div>
  );
}

function useRuns() {
  const [runs, setRuns] = useState<readonly RunRecord[]>();
  const [error, setError] = useState<string>();
  useEffect(() => {
    const load = async () => {
      try {
        setRuns(await readRuns());
        setError(undefined);
      } catch (cause) {
        setError(cause instanceof Error ? cause.message : String(cause));
      }
    };
    void load();
    const timer = setInterval(load, LIST_MS);
    return () => clearInterval(timer);
  }, []);
  return { runs, error };
}

function RunItem({ run, active }: { readonly run: RunRecord; readonly active: boolean }) {
  return (
    <a class={active ? "run active" : "run"} href={runAddress(run.id)} aria-current={active ? "page" : undefined}>
      <span class="name">
        <i class={`dot ${run.status}`} title={run.status} />
        {run.id}
      </span>
      <span class="muted">
        {run.algorithm}, seed {run.seed}, step {run.committedStep ?? 0}/{run.steps}
      </span>
      <span class="muted">
        {run.status === "running" ? "running" : `${run.status} ${ago(run.updatedAt, Date.now())}`}
      </span>
    </a>
  );
}
