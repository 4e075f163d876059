import { useEffect, useState } from "preact/hooks";
import type { Turn } from "../core/types.ts";
import { type EpisodeView, readEpisode } from "./client.ts";
import { visible } from "./visible.ts";

/** A transcript, turn by turn. Whatever an agent wrote is put on the page as text, never as markup. */
export function EpisodePanel({ id, closeAddress }: { readonly id: string; readonly closeAddress: string }) {
  const [episode, setEpisode] = useState<EpisodeView>();
  const [error, setError] = useState<string>();
  const [withTokens, setWithTokens] = useState(false);
  useEffect(() => {
    let current = true;
    setEpisode(undefined);
    setError(undefined);
    readEpisode(id).then(
      (read) => current && setEpisode(read),
      (cause) => current && setError(cause instanceof Error ? cause.message : String(cause)),
    );
    return () => {
      current = false;
    };
  }, [id]);
  useEffect(() => {
    const close = (event: KeyboardEvent) => {
      if (event.key === "Escape") location.hash = closeAddress;
    };
    addEventListener("keydown", close);
    return () => removeEventListener("keydown", close);
  }, [closeAddress]);
  return (
    <div class="panel" role="dialog" aria-label="Episode">
      <div class="panel-head">
        <h3>{id}</h3>
        <a class="close" href={closeAddress} aria-label="Close">
          Close
        </a>
      </div>
      {error !== undefined && <p class="problem">{error}</p>}
      {episode === undefined && error === undefined && <p class="muted">Reading …</p>}
      {episode !== undefined && (
        <>
          <Facts episode={episode} />
          <label class="toggle">
            <input type="checkbox" checked={withTokens} onChange={() => setWithTokens(!withTokens)} />
            tokens and their probabilities
          </label>
          {episode.instruction !== null && <pre class="instruction">{visible(episode.instruction)}</pre>}
          {episode.turns.map((turn) => (
            <TurnView key={turn.index} turn={turn} episode={episode} withTokens={withTokens} />
          ))}
          {episode.error !== null && <p class="problem">{visible(episode.error)}</p>}
        </>
      )}
    </div>
  );
}

function Facts({ episode }: { readonly episode: EpisodeView }) {
  const { reward, stopReason, taskId, step, purpose, isolation, grading, phases, tokens, sampledTokens } = episode;
  const { forkAnchor, forkChunks, forkExpert, alerts } = episode;
  const rows: readonly (readonly [string, string])[] = [
    ["outcome", `reward ${reward}, stopped: ${stopReason}`],
    ["task", taskId],
    ["for", `${purpose}, step ${step}`],
    ...(forkAnchor === null
      ? []
      : [["began", `before chunk ${forkAnchor} of ${forkChunks} of expert ${forkExpert}`] as const]),
    ["tokens", `${tokens.ids.length}, of which ${sampledTokens} sampled`],
    [
      "time",
      `reset ${phases.reset.toFixed(0)} ms, generate ${phases.generate.toFixed(0)} ms, tool ${phases.tool.toFixed(0)} ms, grade ${phases.grade.toFixed(0)} ms`,
    ],
    ["sandbox", `${isolation}, graded ${grading}`],
    ...alerts.map(({ kind, action, turn, evidence }) => {
      const where = turn === null ? "" : `, turn ${turn}`;
      return ["alert", `${kind}${where}${action === "stop" ? ", stopped" : ""}: ${evidence}`] as const;
    }),
  ];
  return (
    <table class="facts">
      <tbody>
        {rows.map(([name, value]) => (
          <tr key={name}>
            <th>{name}</th>
            <td>{visible(value)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

interface TurnProps {
  readonly turn: Turn;
  readonly episode: EpisodeView;
  readonly withTokens: boolean;
}

function TurnView({ turn, episode, withTokens }: TurnProps) {
  const code = turn.exitCode === null ? "no exit code" : `exit ${turn.exitCode}`;
  return (
    <div class="turn">
      <pre class="command">$ {visible(turn.command)}</pre>
      {withTokens && <Tokens episode={episode} turn={turn.index} />}
      {turn.observation !== "" && <pre>{visible(turn.observation)}</pre>}
      <span class="muted">
        {code} · generated in {(turn.generatedMs - turn.startedMs).toFixed(0)} ms · ran{" "}
        {(turn.observedMs - turn.generatedMs).toFixed(0)} ms
      </span>
    </div>
  );
}

/** Blanks and line ends would not be seen. */
function tokenText(text: string | undefined, id: number | undefined): string {
  return text === undefined ? String(id) : text.replaceAll(" ", "␣").replaceAll("\n", "⏎");
}

/** The sampled tokens of a turn; the fuller the bar, the more probable the token was. */
function Tokens({ episode, turn }: { readonly episode: EpisodeView; readonly turn: number }) {
  const { ids, turnIds, logprobs, versions, texts } = episode.tokens;
  const positions = turnIds.flatMap((of, i) => (of === turn ? [i] : []));
  return (
    <div class="tokens">
      {positions.map((i) => {
        const probability = Math.exp(logprobs[i] ?? 0);
        const title = `token ${ids[i]}, log-probability ${(logprobs[i] ?? 0).toFixed(4)}, weights ${versions[i]}`;
        return (
          <span key={i} class="token" title={title}>
            {visible(tokenText(texts?.[i], ids[i]))}
            <progress max={1} value={probability} />
          </span>
        );
      })}
    </div>
  );
}
