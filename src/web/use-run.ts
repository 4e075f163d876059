/** A run's state, read once and kept current by live events. */

import { useEffect, useState } from "preact/hooks";
import type { AleEvent } from "../core/events.ts";
import { followEvents, readMetrics, readRun } from "./client.ts";
import { applyEvent, createState, type RunState } from "./state.ts";

/** Events are applied together this often: an episode changes its phase every few milliseconds. */
const FRAME_MS = 150;

export interface LiveRun {
  readonly state: RunState | undefined;
  readonly error: string | undefined;
  readonly connected: boolean;
}

export function useRun(runId: string): LiveRun {
  const [state, setState] = useState<RunState>();
  const [error, setError] = useState<string>();
  const [connected, setConnected] = useState(false);
  useEffect(() => {
    let ended = false;
    let waiting: AleEvent[] = [];
    const load = async () => {
      try {
        const [detail, metrics] = await Promise.all([readRun(runId), readMetrics(runId)]);
        if (ended) return;
        setState(createState(detail.run, detail.configuration ?? "", metrics, detail.evaluations));
        setError(undefined);
      } catch (cause) {
        if (!ended) setError(cause instanceof Error ? cause.message : String(cause));
      }
    };
    /** Totals such as episodes and wall time, which events do not carry. */
    const refresh = async () => {
      const detail = await readRun(runId).catch(() => undefined);
      if (!ended && detail !== undefined) setState((old) => (old === undefined ? old : { ...old, run: detail.run }));
    };
    // Following begins before reading: what happens in between comes twice and changes nothing.
    const unfollow = followEvents(runId, (event) => waiting.push(event), setConnected);
    void load();
    const timer = setInterval(() => {
      if (waiting.length === 0) return;
      const events = waiting;
      waiting = [];
      setState((old) => (old === undefined ? old : events.reduce(applyEvent, old)));
      if (events.some((event) => event.type === "run.started" || event.type === "run.finished")) void load();
      else if (events.some((event) => event.type === "step.finished")) void refresh();
    }, FRAME_MS);
    return () => {
      ended = true;
      clearInterval(timer);
      unfollow();
    };
  }, [runId]);
  return { state, error, connected };
}
