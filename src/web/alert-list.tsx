import { useEffect, useState } from "preact/hooks";
import { ALERT_KINDS } from "../core/alerts.ts";
import { type AlertView, readAlerts } from "./client.ts";
import { clock } from "./format.ts";
import { episodeAddress } from "./route.ts";
import { visible } from "./visible.ts";

/** How often the list of all alerts is read again. */
const EVERY_MS = 5000;
/** What the kinds are called on the page. */
const NAMES: Readonly<Record<string, string>> = {
  protected_write: "protected write",
  fork_storm: "fork storm",
  output_flood: "output flood",
};

interface AlertListProps {
  /** Of this run; of all runs and of the service's sandboxes when omitted. */
  readonly runId?: string;
  readonly token: string | undefined;
  /** Changes when there may be more. */
  readonly version?: number;
}

/** What the sandbox guards raised. Where that is nothing, a run's list is not shown. */
export function AlertList({ runId, token, version }: AlertListProps) {
  const [kind, setKind] = useState("");
  const { alerts, more, error, readMore } = useAlerts(runId, kind, token, version);
  if (runId !== undefined && kind === "" && (alerts === undefined || alerts.length === 0)) return null;
  return (
    <section class="card">
      <h3>Alerts of the sandbox guards</h3>
      <div class="filters">
        <label>
          <span class="muted">kind</span>
          <select value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
            <option value="">any kind</option>
            {ALERT_KINDS.map((name) => (
              <option key={name} value={name}>
                {NAMES[name] ?? name}
              </option>
            ))}
          </select>
        </label>
      </div>
      {error !== undefined && <p class="problem">{error}</p>}
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th>kind</th>
              <th>done</th>
              <th>when</th>
              <th class="n">step</th>
              <th class="n">turn</th>
              <th>where</th>
              <th>what was seen</th>
            </tr>
          </thead>
          <tbody>
            {alerts?.map((alert) => (
              <AlertRow key={alert.id} alert={alert} />
            ))}
          </tbody>
        </table>
      </div>
      {alerts?.length === 0 && <p class="muted">No alerts.</p>}
      {more && (
        <button type="button" onClick={readMore}>
          More
        </button>
      )}
    </section>
  );
}

function AlertRow({ alert }: { readonly alert: AlertView }) {
  const { kind, action, at, step, turn, evidence } = alert;
  return (
    <tr>
      <td>
        <span class="badge alerted">{NAMES[kind] ?? kind}</span>
      </td>
      <td>{action === "stop" ? "stopped" : "told"}</td>
      <td>{clock(at)}</td>
      <td class="n">{step ?? ""}</td>
      <td class="n">{turn ?? ""}</td>
      <td>
        <Place alert={alert} />
      </td>
      <td class="evidence">{evidence === null ? "only for who has the token" : visible(evidence)}</td>
    </tr>
  );
}

function Place({ alert: { runId, episodeId, sandbox } }: { readonly alert: AlertView }) {
  if (runId === null || episodeId === null) return <>{`sandbox ${visible(sandbox ?? "")}`}</>;
  const short = episodeId.startsWith(`${runId}/`) ? episodeId.slice(runId.length + 1) : episodeId;
  return <a href={episodeAddress(runId, episodeId)}>{short}</a>;
}

function useAlerts(runId: string | undefined, kind: string, token: string | undefined, version: number | undefined) {
  const [alerts, setAlerts] = useState<readonly AlertView[]>();
  const [cursor, setCursor] = useState<string | null>(null);
  const [error, setError] = useState<string>();
  const query = { ...(runId !== undefined && { run: runId }), ...(kind !== "" && { kind }) };
  const read = async (from: string | undefined, current: () => boolean) => {
    try {
      const page = await readAlerts(from === undefined ? query : { ...query, cursor: from }, token);
      if (!current()) return;
      setAlerts((old) => (from === undefined ? page.alerts : [...(old ?? []), ...page.alerts]));
      setCursor(page.nextCursor);
      setError(undefined);
    } catch (cause) {
      if (current()) setError(cause instanceof Error ? cause.message : String(cause));
    }
  };
  useEffect(() => {
    let ended = false;
    const current = () => !ended;
    void read(undefined, current);
    // A run's list is told when there are more.
    const timer = runId === undefined ? setInterval(() => void read(undefined, current), EVERY_MS) : undefined;
    return () => {
      ended = true;
      clearInterval(timer);
    };
  }, [runId, kind, token, version]);
  const readMore = () => cursor !== null && void read(cursor, () => true);
  return { alerts, more: cursor !== null, error, readMore };
}
