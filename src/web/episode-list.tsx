import { useEffect, useState } from "preact/hooks";
import type { EpisodeRecord, FamilyRecord } from "../store/records.ts";
import { readEpisodes, readFamilies } from "./client.ts";
import { episodeAddress } from "./route.ts";

interface EpisodeListProps {
  readonly runId: string;
  /** Last committed step: a new one brings new episodes. */
  readonly step: number;
  readonly selected: string | undefined;
}

interface Filter {
  readonly purpose: string;
  readonly family: string;
  readonly solved: string;
  readonly step: string;
}

const EVERYTHING: Filter = { purpose: "", family: "", solved: "", step: "" };

export function EpisodeList({ runId, step, selected }: EpisodeListProps) {
  const [filter, setFilter] = useState(EVERYTHING);
  const families = useFamilies(runId, step);
  const { episodes, more, error, readMore } = useEpisodes(runId, filter, step);
  const change = (part: Partial<Filter>) => setFilter((old) => ({ ...old, ...part }));
  return (
    <section class="card">
      <h3>Episodes</h3>
      <Filters filter={filter} families={families} onChange={change} />
      {error !== undefined && <p class="problem">{error}</p>}
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th>outcome</th>
              <th>family</th>
              <th class="n">step</th>
              <th>for</th>
              <th>stopped</th>
              <th class="n">turns</th>
              <th class="n">tokens</th>
              <th class="n">ms</th>
              <th>id</th>
            </tr>
          </thead>
          <tbody>
            {episodes?.map((episode) => (
              <EpisodeRow key={episode.id} episode={episode} active={episode.id === selected} />
            ))}
          </tbody>
        </table>
      </div>
      {episodes === undefined && error === undefined && <p class="muted">Reading …</p>}
      {episodes?.length === 0 && error === undefined && <p class="muted">No episodes like that.</p>}
      {more && (
        <button type="button" onClick={readMore}>
          More
        </button>
      )}
    </section>
  );
}

interface FiltersProps {
  readonly filter: Filter;
  readonly families: readonly string[];
  readonly onChange: (part: Partial<Filter>) => void;
}

function Filters({ filter, families, onChange }: FiltersProps) {
  return (
    <div class="filters">
      <Choice
        label="for"
        value={filter.purpose}
        options={[
          ["", "any purpose"],
          ["train", "training"],
          ["eval", "evaluation"],
          ["greedy", "greedy evaluation"],
        ]}
        onChange={(purpose) => onChange({ purpose })}
      />
      <Choice
        label="family"
        value={filter.family}
        options={[["", "any family"], ...families.map((name) => [name, name] as const)]}
        onChange={(family) => onChange({ family })}
      />
      <Choice
        label="outcome"
        value={filter.solved}
        options={[
          ["", "any outcome"],
          ["true", "solved"],
          ["false", "failed"],
        ]}
        onChange={(solved) => onChange({ solved })}
      />
      <label>
        <span class="muted">step</span>
        <input
          type="number"
          min="0"
          placeholder="any"
          value={filter.step}
          onInput={(event) => onChange({ step: event.currentTarget.value })}
        />
      </label>
    </div>
  );
}

interface ChoiceProps {
  readonly label: string;
  readonly value: string;
  readonly options: readonly (readonly [string, string])[];
  readonly onChange: (value: string) => void;
}

function Choice({ label, value, options, onChange }: ChoiceProps) {
  return (
    <label>
      <span class="muted">{label}</span>
      <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {options.map(([key, text]) => (
          <option key={key} value={key}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

function EpisodeRow({ episode, active }: { readonly episode: EpisodeRecord; readonly active: boolean }) {
  const { id, runId, reward, family, step, purpose, stopReason, turns, tokens, alerts, phases } = episode;
  const total = phases.reset + phases.generate + phases.tool + phases.grade;
  return (
    <tr class={active ? "active" : ""}>
      <td>
        <span class={`badge ${reward >= 1 ? "solved" : "failed"}`}>{reward >= 1 ? "solved" : "failed"}</span>
        {alerts > 0 && <span class="badge alerted">alert</span>}
      </td>
      <td>{family}</td>
      <td class="n">{step}</td>
      <td>{purpose}</td>
      <td>{stopReason}</td>
      <td class="n">{turns}</td>
      <td class="n">{tokens}</td>
      <td class="n">{total.toFixed(0)}</td>
      <td>
        <a href={episodeAddress(runId, id)}>{id.startsWith(`${runId}/`) ? id.slice(runId.length + 1) : id}</a>
      </td>
    </tr>
  );
}

function useFamilies(runId: string, step: number): readonly string[] {
  const [families, setFamilies] = useState<readonly FamilyRecord[]>([]);
  const known = families.length > 0;
  // Families do not change after the first step.
  useEffect(() => {
    if (known) return;
    readFamilies(runId).then(setFamilies, () => undefined);
  }, [runId, step, known]);
  return [...new Set(families.map((row) => row.family))].sort();
}

function useEpisodes(runId: string, filter: Filter, step: number) {
  const [episodes, setEpisodes] = useState<readonly EpisodeRecord[]>();
  const [cursor, setCursor] = useState<string | null>(null);
  const [error, setError] = useState<string>();
  const { purpose, family, solved, step: wanted } = filter;
  const read = async (from: string | undefined, current: () => boolean) => {
    const query = { run: runId, purpose, family, solved, step: wanted };
    try {
      const page = await readEpisodes(from === undefined ? query : { ...query, cursor: from });
      if (!current()) return;
      setEpisodes((old) => (from === undefined ? page.episodes : [...(old ?? []), ...page.episodes]));
      setCursor(page.nextCursor);
      setError(undefined);
    } catch (cause) {
      if (current()) setError(cause instanceof Error ? cause.message : String(cause));
    }
  };
  useEffect(() => {
    let current = true;
    void read(undefined, () => current);
    return () => {
      current = false;
    };
  }, [runId, purpose, family, solved, wanted, step]);
  return {
    episodes,
    error,
    more: cursor !== null,
    readMore: () => void read(cursor ?? undefined, () => true),
  };
}
