/** What ROCK's clients wait for: from the request for a sandbox until it is said to be alive, over HTTP as `ale serve` answers. */

import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AleError } from "../../../core/errors.ts";
import type { SandboxBench } from "./cases.ts";
import { rowsOf, takeTurns, type Use } from "./sides.ts";

const ROUNDS = 50;
/** As `ale serve` has them. */
const WARM = 4;

/** `rock-start`: nothing is prepared; `rock-warm`: with the pools that `ale serve` has. */
export async function measureRock(bench: SandboxBench, warm: boolean): Promise<void> {
  const { signal, report, rounds = ROUNDS } = bench.context;
  await using rock = await openRock(bench, warm ? WARM : 0);
  const use = async (): Promise<Use> => {
    const started = performance.now();
    const id = await rock.start();
    const first = performance.now() - started;
    await rock.end(id);
    const total = performance.now() - started;
    if (warm) await Bun.sleep(10); // clients do not ask for the next at once; the pool fills up
    return { first, total };
  };
  const measured = await takeTurns([{ backend: "native", use }], { rounds, concurrency: 1, signal });
  for (const row of rowsOf(warm ? "rock-warm" : "rock-start", 1, measured)) report(row);
}

interface Rock extends AsyncDisposable {
  /** Returns when `is_alive` says so. */
  start(): Promise<string>;
  end(id: string): Promise<void>;
}

async function openRock({ provider, environment, context }: SandboxBench, warm: number): Promise<Rock> {
  const [{ createApp }, { mountSandboxes }, { serve }, { openStore }, { SandboxService }, { defaultCapacity }] =
    await Promise.all([
      import("../../../api/app.ts"),
      import("../../../api/sandboxes/mount.ts"),
      import("../../../api/serve.ts"),
      import("../../../store/store.ts"),
      import("../../../sandbox/service/sandbox-service.ts"),
      import("../../../sandbox/service/capacity.ts"),
    ]);
  const folder = await mkdtemp(join(tmpdir(), "ale-bench-"));
  const store = await openStore(join(folder, "ale.db"));
  const service = new SandboxService({ provider, capacity: defaultCapacity(), warm });
  const token = randomBytes(16).toString("hex");
  const app = createApp({ store, token });
  mountSandboxes(app, { service, token });
  const http = serve(app, { port: 0 });
  const call = async (path: string, body?: object): Promise<Record<string, unknown>> => {
    const response = await fetch(`${http.url}/apis/envs/sandbox/v1/${path}`, {
      headers: { "X-Key": token, "Content-Type": "application/json" },
      ...(body !== undefined && { method: "POST", body: JSON.stringify(body) }),
      signal: context.signal,
    });
    const answer = (await response.json()) as { status: string; result: Record<string, unknown>; error: string };
    if (answer.status !== "Success") throw new AleError("service", `${path} was refused: ${answer.error}`);
    return answer.result;
  };
  return {
    start: async () => {
      const { sandbox_id: id } = await call("start_async", {
        image: environment.profile,
        memory: "512m",
        disk: "256m",
      });
      while ((await call(`is_alive?sandbox_id=${id}`)).is_alive !== true) await Bun.sleep(1);
      return String(id);
    },
    end: async (id) => {
      await call("stop", { sandbox_id: id });
      await call("delete", { sandbox_id: id });
    },
    [Symbol.asyncDispose]: async () => {
      await http.close();
      await service.close();
      await store.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
