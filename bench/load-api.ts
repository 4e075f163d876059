/** Asks the API of a run as somebody who watches it does, and notes how long the answers take. */

/** One request of each so often. */
const INTERVAL_MS = 250;

export class ApiLoad {
  /** Most episodes of the run that were seen waiting for something at once. */
  inFlight = 0;
  readonly #url: string;
  readonly #runId: string;
  readonly #stop = new AbortController();
  readonly #latencies = new Map<string, number[]>();
  readonly #work: Promise<unknown>;

  constructor(url: string, runId: string) {
    this.#url = url;
    this.#runId = runId;
    const paths = ["/v1/health", "/v1/runs", "/v1/episodes?limit=50"];
    this.#work = Promise.allSettled([
      ...paths.map((path) => this.#ask(path, () => this.#fetch(path))),
      this.#askMetrics(),
      this.#followEvents(),
      this.#count(),
    ]);
  }

  /** Milliseconds of every answer, by path. */
  async stop(): Promise<ReadonlyMap<string, readonly number[]>> {
    this.#stop.abort();
    await this.#work;
    return this.#latencies;
  }

  /** All rows once, then those of new steps: the page learns of these by events. */
  async #askMetrics(): Promise<void> {
    const path = "/v1/runs/:id/metrics";
    let last = -1;
    await this.#ask(path, async () => {
      const { rows } = (await this.#fetch(`${path}?since=${last}`)) as { rows: readonly { readonly step: number }[] };
      last = rows.at(-1)?.step ?? last;
    });
  }

  async #ask(path: string, fetch: () => Promise<unknown>): Promise<void> {
    const latencies: number[] = [];
    this.#latencies.set(path, latencies);
    for (;;) {
      const began = performance.now();
      await fetch();
      latencies.push(performance.now() - began);
      await Bun.sleep(INTERVAL_MS);
    }
  }

  async #count(): Promise<void> {
    for (;;) {
      const { waiting } = (await this.#fetch("/v1/runs/:id/waiting")) as { waiting: { readonly who: string }[] };
      const episodes = new Set(waiting.map(({ who }) => who).filter((who) => who.startsWith(this.#runId)));
      this.inFlight = Math.max(this.inFlight, episodes.size);
      await Bun.sleep(4 * INTERVAL_MS);
    }
  }

  async #followEvents(): Promise<void> {
    const response = await fetch(`${this.#url}/v1/events`, { signal: this.#stop.signal });
    for await (const _chunk of response.body ?? []);
  }

  /** Rejects when the load is to end, or the run has ended. */
  async #fetch(path: string): Promise<unknown> {
    this.#stop.signal.throwIfAborted();
    const response = await fetch(this.#url + path.replace(":id", this.#runId));
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  }
}
