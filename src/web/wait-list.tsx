import { useEffect, useState } from "preact/hooks";
import { groupWaits, type WaitGroup } from "../core/waits.ts";
import { readWaits } from "./client.ts";
import { duration } from "./format.ts";

const EVERY_MS = 2000;
/** Lines shown: the longest waits. */
const SHOWN = 8;

interface Waits {
  readonly groups: readonly WaitGroup[];
  /** Time of the process that listed them. */
  readonly at: number;
}

/** Who waits for what in the run's process; nothing where another process serves the page. */
export function WaitList({ runId }: { readonly runId: string }) {
  const waits = useWaits(runId);
  if (waits === undefined || waits.groups.length === 0) return null;
  const { groups, at } = waits;
  return (
    <section class="card">
      <h3>Waiting</h3>
      <div class="scroll">
        <table>
          <thead>
            <tr>
              <th>who</th>
              <th>for what</th>
              <th class="n">since</th>
              <th class="n">at most</th>
            </tr>
          </thead>
          <tbody>
            {groups.slice(0, SHOWN).map(({ who, forWhat, count, since, deadline }) => (
              <tr key={forWhat}>
                <td>{`${who.replace(`${runId}/`, "")}${count === 1 ? "" : ` and ${count - 1} more`}`}</td>
                <td>{forWhat}</td>
                <td class="n">{duration((at - since) / 1000)}</td>
                <td class="n">{deadline === null ? "" : duration((deadline - at) / 1000)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function useWaits(runId: string): Waits | undefined {
  const [waits, setWaits] = useState<Waits>();
  useEffect(() => {
    let ended = false;
    const read = async () => {
      const answer = await readWaits(runId).catch(() => undefined);
      if (!ended) setWaits(answer && { groups: groupWaits(answer.waiting), at: answer.at });
    };
    void read();
    const timer = setInterval(read, EVERY_MS);
    return () => {
      ended = true;
      clearInterval(timer);
    };
  }, [runId]);
  return waits;
}
