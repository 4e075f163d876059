/** Which run and episode the address names: `#/RUN` or `#/RUN/episode/ID`. */

import { useEffect, useState } from "preact/hooks";

export interface Route {
  readonly runId: string | undefined;
  readonly episodeId: string | undefined;
}

function parseRoute(hash: string): Route {
  const [run, kind, episode] = hash.replace(/^#\/?/, "").split("/").map(decode);
  return { runId: run || undefined, episodeId: kind === "episode" ? episode || undefined : undefined };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

export function runAddress(runId: string): string {
  return `#/${encodeURIComponent(runId)}`;
}

export function episodeAddress(runId: string, episodeId: string): string {
  return `${runAddress(runId)}/episode/${encodeURIComponent(episodeId)}`;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parseRoute(location.hash));
  useEffect(() => {
    const update = () => setRoute(parseRoute(location.hash));
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return route;
}
