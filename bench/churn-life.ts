/** One sandbox's life in the churn: made somehow, a few things done in it, ended somehow, all by a random stream of its own. */

import { AleError } from "../src/core/errors.ts";
import { Rng } from "../src/core/rng.ts";
import type { EnvironmentSpec } from "../src/core/types.ts";
import type { NativeSandbox } from "../src/sandbox/native-sandbox.ts";
import { NamedShell } from "../src/sandbox/shells.ts";
import type { NativeSandboxProvider } from "../src/sandbox/supervisor.ts";
import { SandboxTerminal } from "../src/sandbox/terminals.ts";

export const ENVIRONMENT: EnvironmentSpec = {
  profile: "host",
  workdir: "/work",
  cpus: 1,
  memoryBytes: 64 << 20,
  diskBytes: 8 << 20,
  pids: 32,
};
/** Of which the pool keeps some ready. */
export const WARM_ENVIRONMENT: EnvironmentSpec = { ...ENVIRONMENT, pids: 33 };

/** What agents do, harmless and not. */
const COMMANDS = [
  "true",
  "exit 7",
  "echo some output; ls -la / >&2",
  "sleep 30",
  "while :; do :; done",
  "sleep 31 & setsid sleep 32 & nohup sleep 33 >/dev/null 2>&1 &",
  "(trap '' TERM INT HUP; sleep 34) & disown; false",
  "kill -9 $$",
  "kill -9 -1",
  "kill -STOP $$",
  "exec sleep 35",
  "yes | head -c 2000000",
  "yes",
  "head -c 3000000 /dev/zero > file; cp file copy; rm file",
  "head -c 20000000 /dev/zero > full",
  "mkdir -p a/b/c/d; ln -s .. a/b/up; mkfifo a/p; cat a/p",
  "for i in 1 2 3 4 5 6 7 8; do (sleep 36) & done; wait",
  ":(){ :|:& };:",
  "x=$(head -c 90000000 /dev/zero | tr '\\0' x); echo ${#x}",
  "exec 9<>/dev/tcp/127.0.0.1/9",
  "head -c 1000000 /dev/zero > /dev/shm/s; exec 8</dev/shm/s",
  "unshare -Urmpn true; mount -t tmpfs x /mnt",
  "cat /proc/1/environ; ls /proc/1/fd",
];

export interface Churning {
  readonly provider: NativeSandboxProvider;
  readonly seed: string;
  /** Ends a random sandbox from outside, as the kernel does for want of memory. */
  readonly killSome: (rng: Rng) => boolean;
}

/** What became of the lives, by name. */
export class Tally {
  readonly counts = new Map<string, number>();
  /** What no life may end with. */
  readonly unexpected: string[] = [];

  add(name: string): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
  }

  /** A sandbox may be gone, or what was asked of it given up, or refused by its limits; everything else is a fault. */
  addError(error: unknown, mayBeRefused = true): void {
    if (!(error instanceof AleError)) this.unexpected.push(String(error));
    else if (error.code === "interrupted") this.add("given up");
    // Of a process that was killed while it was being made, an ordinary user may not write the id maps any more.
    else if (
      / is gone| is destroyed| was destroyed|the sandbox is gone|init was ended by signal 9|id maps: (?:Permission denied|No such)/.test(
        error.message,
      )
    )
      this.add("asked of one that was gone");
    else if (
      mayBeRefused &&
      /cannot start|cannot be opened|larger than allowed|Resource temporarily|No space left|Cannot allocate/.test(
        error.message,
      )
    )
      this.add("refused");
    else this.unexpected.push(error.message);
  }
}

export async function live(index: number, churning: Churning, tally: Tally): Promise<void> {
  const rng = new Rng(`${churning.seed}/${index}`);
  const attempt = async (work: () => Promise<unknown>) => {
    try {
      await work();
    } catch (error) {
      tally.addError(error);
    }
  };
  let sandbox: NativeSandbox;
  try {
    sandbox = await make(rng, churning.provider, tally);
  } catch (error) {
    tally.addError(error, false);
    return;
  }
  const steps = Array.from({ length: rng.int(0, 3) }, () => pickAction(rng, tally));
  const ending = rng.pick(["destroyed after its work", "destroyed at a random moment", "killed from outside"]);
  const moment = rng.int(0, 40);
  const kill = rng.int(0, 1) === 0;
  const work = (async () => {
    for (const step of steps) await attempt(() => step(sandbox));
  })();
  if (ending === "destroyed after its work") await work;
  else await Bun.sleep(moment);
  if (ending === "killed from outside" && kill && churning.killSome(rng)) tally.add("killed from outside");
  await attempt(() => sandbox.destroy());
  await work;
  tally.add("destroyed");
}

async function make(rng: Rng, provider: NativeSandboxProvider, tally: Tally): Promise<NativeSandbox> {
  const how = rng.next();
  if (how < 0.6) return tallied(tally, "made", provider.create(ENVIRONMENT));
  if (how < 0.75) return tallied(tally, "from the pool", provider.create(WARM_ENVIRONMENT));
  if (how < 0.9) return tallied(tally, "made without a shell", provider.createBare(ENVIRONMENT));
  if (how < 0.95) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), rng.int(0, 8));
    return tallied(tally, "made although given up soon", provider.create(ENVIRONMENT, controller.signal));
  }
  await using parent = await provider.create(ENVIRONMENT);
  await parent.run("cd /tmp; export K=kept; echo state > state", { timeoutMs: 30_000, maxOutputBytes: 100 });
  await using snapshot = await parent.snapshot();
  return await tallied(tally, "forked", provider.fork(snapshot)); // before the snapshot is disposed of
}

async function tallied<T>(tally: Tally, name: string, making: Promise<T>): Promise<T> {
  const made = await making;
  tally.add(name);
  return made;
}

type Action = (sandbox: NativeSandbox) => Promise<unknown>;

function pickAction(rng: Rng, tally: Tally): Action {
  const command = rng.pick(COMMANDS);
  const limits = { timeoutMs: rng.int(5, 60), maxOutputBytes: 1000 };
  const moment = rng.int(0, 30);
  const name = rng.pick([
    "run",
    "run",
    "run",
    "given up",
    "exec",
    "shell",
    "terminal",
    "files",
    "pause",
    "snapshot",
  ] as const);
  tally.add(`did ${name}`);
  switch (name) {
    case "run":
      return (sandbox) => sandbox.run(command, limits);
    case "given up":
      return (sandbox) => sandbox.run(command, { ...limits, timeoutMs: 30_000, signal: AbortSignal.timeout(moment) });
    case "exec":
      return (sandbox) => sandbox.exec(["sh", "-c", command], { ...limits, cwd: "/", stdin: new Uint8Array(70_000) });
    case "shell":
      return async (sandbox) => {
        const shell = await NamedShell.open(sandbox, 1 + (moment % 15), "s", { cwd: "/" });
        await shell.run(command, limits);
        if (moment % 2 === 0) await shell.close();
      };
    case "terminal":
      return async (sandbox) => {
        const terminal = await SandboxTerminal.open(sandbox, { argv: ["sh"], cwd: "/", rows: 24, columns: 80 });
        await terminal.write(new TextEncoder().encode(`${command}\n`));
        await terminal.read(moment);
      };
    case "files":
      return async (sandbox) => {
        await sandbox.upload("/work/in", [{ path: "f", mode: 0o644, content: new Uint8Array(200_000) }]);
        await sandbox.exportFolder("/work", 1 << 20);
      };
    case "pause":
      return async (sandbox) => {
        const running = sandbox.run(command, limits);
        running.catch(() => {}); // awaited below, unless pausing fails
        await sandbox.pause();
        await Bun.sleep(moment);
        await sandbox.resume();
        await running;
      };
    case "snapshot":
      return async (sandbox) => {
        await using _snapshot = await sandbox.snapshot();
      };
  }
}
