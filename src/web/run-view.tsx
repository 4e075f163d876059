import { useState } from "preact/hooks";
import { AlertList } from "./alert-list.tsx";
import { stopRun } from "./client.ts";
import { LearningCurve } from "./curve.tsx";
import { EpisodeList } from "./episode-list.tsx";
import { EpisodePanel } from "./episode-panel.tsx";
import { count, duration, percent, scientific } from "./format.ts";
import { runAddress } from "./route.ts";
import { LIVE_PHASES, latest, type RunState, secondsLeft } from "./state.ts";
import { useRun } from "./use-run.ts";
import { WaitList } from "./wait-list.tsx";

interface RunViewProps {
  readonly runId: string;
  readonly episodeId: string | undefined;
  readonly token: string | undefined;
}

export function RunView({ runId, episodeId, token }: RunViewProps) {
  const { state, error, connected } = useRun(runId);
  if (error !== undefined) return <p class="problem">{error}</p>;
  if (state === undefined) return <p class="muted">Reading the run …</p>;
  const { run } = state;
  return (
    <>
      <header class="head">
        <div>
          <h2>{run.name}</h2>
          <p class="muted">
            {run.id} · {run.algorithm} · seed {run.seed} · {run.outDir}
          </p>
        </div>
        <div class="head-side">
          {run.status === "running" && token !== undefined && <StopButton runId={run.id} token={token} />}
          <span class={`status ${run.status}`}>{run.status}</span>
        </div>
      </header>
      {run.status === "running" && !connected && <p class="problem">Not connected; the page tries again by itself.</p>}
      {run.reason !== null && <p class="problem">{run.reason}</p>}
      {(run.status === "interrupted" || run.status === "failed") && (
        <p class="muted">
          Continue with <code>ale resume {run.id}</code>
        </p>
      )}
      <Tiles state={state} />
      <section class="card">
        <h3>Learning curve</h3>
        <LearningCurve metrics={state.metrics} evaluations={state.evaluations} />
      </section>
      {run.status === "running" && <InFlight state={state} />}
      {run.status === "running" && <WaitList runId={run.id} />}
      <AlertList runId={run.id} token={token} version={state.alerts + (run.committedStep ?? 0)} />
      <EpisodeList runId={run.id} step={run.committedStep ?? 0} selected={episodeId} />
      {episodeId !== undefined && <EpisodePanel id={episodeId} closeAddress={runAddress(run.id)} />}
      <details class="settings">
        <summary>Settings</summary>
        <pre>{state.configuration}</pre>
      </details>
    </>
  );
}

function StopButton({ runId, token }: { readonly runId: string; readonly token: string }) {
  const [message, setMessage] = useState<string>();
  const stop = async () => {
    setMessage("stopping …");
    try {
      await stopRun(runId, token);
    } catch (cause) {
      setMessage(cause instanceof Error ? cause.message : String(cause));
    }
  };
  if (message !== undefined) return <span class="muted">{message}</span>;
  return (
    <button type="button" onClick={stop}>
      Stop and save
    </button>
  );
}

function Tiles({ state }: { readonly state: RunState }) {
  const { run, metrics, evaluations } = state;
  const heldOut = evaluations.filter((row) => row.split === "heldout" && !row.greedy);
  const [first, last] = [heldOut[0], heldOut.at(-1)];
  const greedy = evaluations.filter((row) => row.split === "heldout" && row.greedy).at(-1);
  const throughput = latest(metrics, "perf/throughput");
  const parity = latest(metrics, "rollout_corr/logprob_abs_diff_max");
  const left = secondsLeft(state);
  const reward = latest(metrics, "critic/rewards/mean");
  return (
    <div class="tiles">
      <Tile label="step" value={`${run.committedStep ?? 0}`} note={`of ${run.steps}`} />
      <Tile
        label="held-out success"
        value={percent(last?.rate)}
        note={
          last === undefined
            ? "not evaluated yet"
            : `${(last.low * 100).toFixed(0)}–${(last.high * 100).toFixed(0)} %, start ${percent(first?.rate)}${
                greedy === undefined ? "" : `, greedy ${percent(greedy.rate)}`
              }`
        }
      />
      <Tile label="training reward" value={reward === undefined ? "–" : reward.toFixed(3)} note="last step, mean" />
      <Tile
        label="throughput"
        value={throughput === undefined ? "–" : count(throughput)}
        note={`tokens/s, ${count(run.episodes)} episodes so far`}
      />
      <Tile label="parity" value={parity === undefined ? "–" : scientific(parity)} note="largest |Δ log-prob.|" />
      <Tile
        label={left === undefined ? "wall time" : "time left"}
        value={duration(left ?? run.wallSeconds)}
        note={left === undefined ? "of work" : `${duration(run.wallSeconds)} so far`}
      />
    </div>
  );
}

function Tile({ label, value, note }: { readonly label: string; readonly value: string; readonly note: string }) {
  return (
    <div class="card tile">
      <span class="muted">{label}</span>
      <b>{value}</b>
      <span class="muted">{note}</span>
    </div>
  );
}

function InFlight({ state }: { readonly state: RunState }) {
  const counts = LIVE_PHASES.map((phase) => ({
    phase,
    count: [...state.inFlight.values()].filter((value) => value === phase).length,
  }));
  const total = Math.max(state.expected, state.inFlight.size, 1);
  return (
    <section class="card">
      <h3>
        Episodes in flight
        <span class="muted">
          {state.expected > 0 && ` ${state.finished} of ${state.expected} finished`}
          {state.progress !== undefined &&
            ` ${state.progress.stage}: ${state.progress.done} of ${state.progress.total} ${state.progress.unit}`}
        </span>
      </h3>
      <div class="phases">
        {counts.map(({ phase, count: n }) => (
          <div key={phase} class="phase">
            <span class="muted">{phase}</span>
            <progress class={phase} max={total} value={n} />
            <b>{n}</b>
          </div>
        ))}
      </div>
    </section>
  );
}
