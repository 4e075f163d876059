/** Whole runs through the command line, in a place of their own. */

import { Database } from "bun:sqlite";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { selfCommand } from "../../src/device/self.ts";

const REPOSITORY = join(import.meta.dir, "../..");
const MAIN = selfCommand("engine").slice(0, -1);

export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A row of the store's episodes. */
export interface EpisodeRow {
  readonly key: string;
  readonly step: number;
  readonly purpose: string;
  readonly member: number;
  readonly startedAt: number;
}

export class Workspace implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "ale-run-"));
  readonly home = join(this.folder, "home");
  readonly #command: readonly string[];

  /** @param command what starts ale; this checkout when omitted. */
  constructor(command: readonly string[] = MAIN) {
    this.#command = command;
  }

  ale(...args: string[]) {
    const env = { ...process.env, ALE_HOME: this.home, NO_COLOR: "1" };
    return Bun.spawn([...this.#command, ...args], { cwd: REPOSITORY, env, stdio: ["ignore", "pipe", "pipe"] });
  }

  path(...names: string[]): string {
    return join(this.folder, ...names);
  }

  /** Lines of `metrics.jsonl`, one per committed step; none before there is the file. */
  metrics(run: string): Record<string, number>[] {
    const file = this.path(run, "metrics.jsonl");
    if (!existsSync(file)) return [];
    const lines = readFileSync(file, "utf8").split("\n").filter(Boolean);
    return lines.map((line) => JSON.parse(line));
  }

  summary(run: string): { readonly status: string; readonly steps: number; readonly episodes: number } {
    return JSON.parse(readFileSync(this.path(run, "summary.json"), "utf8"));
  }

  /** Episodes of training in the store, in the order they were written. */
  episodes(run: string): EpisodeRow[] {
    using database = new Database(join(this.home, "ale.db"), { readonly: true });
    const columns = "e.key, e.step, e.purpose, e.member, e.started_at AS startedAt";
    const query = `SELECT ${columns} FROM episodes e JOIN runs r ON r.id = e.run_id WHERE r.out_dir = ? AND e.purpose = 'train'`;
    return database.query<EpisodeRow, [string]>(query).all(this.path(run));
  }

  /** Processes that belong to runs of this place. */
  processes(role = ""): number[] {
    const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
    return pids.filter((pid) => this.#isOurs(pid, role)).map(Number);
  }

  /** Processes that make the sandboxes of running runs; they show nothing of themselves in /proc. */
  launchers(): number[] {
    const folder = join(this.home, "sandboxes");
    const records = readdirSync(folder).map((name) => join(folder, name, "record.json"));
    return records.filter(existsSync).map((file) => JSON.parse(readFileSync(file, "utf8")).launcher.pid);
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  #isOurs(pid: string, role: string): boolean {
    try {
      const mine = readFileSync(`/proc/${pid}/environ`, "utf8").includes(`ALE_HOME=${this.home}`);
      return mine && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(role);
    } catch {
      return false;
    }
  }
}

/** Waits for the end of `child`; `hear` is told what it prints while it goes on. */
export async function finish(child: ReturnType<Workspace["ale"]>, hear?: (text: string) => void): Promise<Ended> {
  const listen = async () => {
    let out = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      out += text;
      hear?.(text);
    }
    return out;
  };
  const [out, err, code] = await Promise.all([listen(), new Response(child.stderr).text(), child.exited]);
  return { code, out, err };
}

export async function until(what: string, condition: () => boolean, ms = 60_000): Promise<void> {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await Bun.sleep(20);
  }
}
