import { join } from "node:path";
import { type Command, Option } from "commander";
import type { Hono } from "hono";
import { NETWORK_MODES, type NetworkCapSettings, networkCapProblem } from "../config/network-cap.ts";
import { aleHome, prepareStorePath } from "../config/paths.ts";
import { AleError } from "../core/errors.ts";
import type { NetworkMode } from "../core/types.ts";
import type { ImageStore } from "../images/image-store.ts";
import type { SandboxService } from "../sandbox/service/sandbox-service.ts";
import type { AlertRecorder } from "../store/record-alerts.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { type CommandLine, examples, wholeNumber } from "./command-line.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { addBackendOptions, type BackendFlags, backendOf } from "./sandbox/backend.ts";
import { storePathOf } from "./stored-runs.ts";

interface ServeFlags extends BackendFlags {
  readonly port: number;
  readonly store?: string;
  readonly json?: boolean;
  readonly sandboxes: boolean;
  readonly maxSandboxes: number;
  readonly warmSandboxes: number;
  readonly sandboxImage?: ReadonlyMap<string, string>;
  readonly teacher?: string;
  readonly mostNetwork?: NetworkMode;
  readonly networkHost?: readonly string[];
}

/** `NAME=PROFILE`, given any number of times. */
function addImage(text: string, before: ReadonlyMap<string, string> = new Map()): ReadonlyMap<string, string> {
  const at = text.lastIndexOf("=");
  if (at > 0 && at < text.length - 1) return new Map([...before, [text.slice(0, at), text.slice(at + 1)]]);
  throw new AleError("usage", `--sandbox-image is ${JSON.stringify(text)}; expected an image and a profile`, {
    hint: "write --sandbox-image python:3.11=host",
  });
}

const addHost = (host: string, before: readonly string[] = []) => [...before, host];

/** What no sandbox may go beyond. Hosts alone mean that lists are the most. */
function capOf({ mostNetwork, networkHost }: ServeFlags): NetworkCapSettings {
  const cap = { mostNetwork: mostNetwork ?? (networkHost ? "allowlist" : "public"), networkHosts: networkHost };
  if (networkCapProblem(cap) === undefined) return cap;
  throw new AleError("usage", `--network-host lists what may be listed, and --most-network is ${mostNetwork}`, {
    hint: "leave out either, or give --most-network allowlist",
  });
}

export function defineServe(command: Command, cli: CommandLine): void {
  addBackendOptions(command, ["native", "podman", "docker"])
    .option("--port <n>", "port on 127.0.0.1; 0 picks a free one", wholeNumber("--port", 0, 65_535), 4242)
    .option("--store <file>", "database of runs (default: ale.db in ALE_HOME)")
    .option("--no-sandboxes", "no sandboxes for others")
    .option("--max-sandboxes <n>", "sandboxes at once", wholeNumber("--max-sandboxes", 1, 100_000), 2000)
    .option(
      "--warm-sandboxes <n>",
      "kept ready of each kind that was asked for lately",
      wholeNumber("--warm-sandboxes", 0, 1000),
      4,
    )
    .option("--sandbox-image <image=profile>", "profile or image for one that ROCK's clients name; * is any", addImage)
    .addOption(
      new Option("--most-network <mode>", "the most that a sandbox may ask for (docs/sandbox.md)").choices(
        NETWORK_MODES,
      ),
    )
    .option(
      "--network-host <host>",
      "what sandboxes may list, any number of times; everything else is refused",
      addHost,
    )
    .option("--teacher <dir>", "tell clients how likely this model finds their prompts (POST /v1/completions)")
    .option("--json", "print JSON: url, store, tokenFile, sandboxes, teacher")
    .description(
      "Serve the dashboard and the API over all stored runs, running ones included, and sandboxes to whoever has the " +
        "token (docs/api.md), until Ctrl-C. Reading of runs is open to this machine; what changes state, and all of the " +
        "sandboxes, needs the token.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale serve", "http://127.0.0.1:4242"],
        ["ale serve --port 0 --json", "on a free port, for programs"],
        ["ale serve --sandbox-image '*=host'", "whatever image ROCK's clients name, they get this machine's programs"],
        ["ale serve --teacher models/big", "a teacher for runs on other machines ([distillation])"],
        ["curl -s http://127.0.0.1:4242/v1/runs", "what it answers"],
      ),
    )
    .action(async (flags: ServeFlags) => {
      const [{ createApp }, { serve }, { loadToken }, { openStore, storeExists }] = await Promise.all([
        import("../api/app.ts"),
        import("../api/serve.ts"),
        import("../api/token.ts"),
        import("../store/store.ts"),
      ]);
      const path = prepareStorePath(storePathOf(cli, flags.store));
      if (!storeExists(path)) await (await openStore(path)).close();
      const tokenFile = join(aleHome(cli.env), "token");
      await using store = await openStore(path, { mode: "read" });
      const token = loadToken(tokenFile);
      const app = createApp({ store, token });
      const { AlertRecorder } = await import("../store/record-alerts.ts");
      await using alerts = new AlertRecorder(path);
      await using sandboxes = flags.sandboxes ? await openSandboxService(cli, flags, alerts) : undefined;
      if (sandboxes !== undefined) {
        const { mountSandboxes } = await import("../api/sandboxes/mount.ts");
        const { service, imageStore } = sandboxes;
        const envHubFile = join(aleHome(cli.env), "envhub.json");
        mountSandboxes(app, {
          service,
          token,
          imageStore,
          envHubFile,
          ...(flags.sandboxImage && { images: flags.sandboxImage }),
        });
      }
      await using teacher =
        flags.teacher === undefined ? undefined : await mountTeacher(cli, app, flags.teacher, token);
      await using service = serve(app, { port: flags.port });
      const isolation = sandboxes?.service.provider.isolation ?? null;
      const lent = teacher && flags.teacher;
      if (flags.json)
        cli.printJson({ url: service.url, store: path, tokenFile, sandboxes: isolation, teacher: lent ?? null });
      else {
        cli.print(`dashboard  ${cli.paint("bold", service.url)}`);
        cli.print(`store      ${sanitizeLine(path)}`);
        cli.print(`token      ${sanitizeLine(tokenFile)}`);
        cli.print(`sandboxes  ${isolation ?? "none"}`);
        if (lent !== undefined) cli.print(`teacher    ${sanitizeLine(lent)}`);
        cli.print(cli.paint("dim", "Ctrl-C ends it"));
      }
      using interrupt = listenForInterrupt(false, () => {});
      await new Promise<void>((resolve) => interrupt.signal.addEventListener("abort", () => resolve(), { once: true }));
    });
}

/** Lends a model's judgement to whoever has the token. */
async function mountTeacher(cli: CommandLine, app: Hono, folder: string, token: string): Promise<AsyncDisposable> {
  const [{ serveTeacher }, { scoringRoutes }, { ScoreQueue }, { requireToken }] = await Promise.all([
    import("../experiment/teacher.ts"),
    import("../api/scoring/routes.ts"),
    import("../api/scoring/score-queue.ts"),
    import("../api/guards.ts"),
  ]);
  const served = await serveTeacher(folder, (reason) => cli.note(`the teacher's engine is started again: ${reason}`));
  const queue = new ScoreQueue(served.teacher, served.vocabularySize);
  for (const path of ["/v1/models", "/v1/completions"]) app.use(path, requireToken(token));
  app.route("/v1", scoringRoutes({ ...served, queue, model: folder }));
  return served;
}

interface OpenService extends AsyncDisposable {
  readonly service: SandboxService;
  readonly imageStore: ImageStore;
}

/** `undefined`, with the reason said, on a machine that allows none: the dashboard is of use all the same. */
async function openSandboxService(
  cli: CommandLine,
  flags: ServeFlags,
  alerts: AlertRecorder,
): Promise<OpenService | undefined> {
  const [
    { openLocalBackend },
    { SandboxService },
    { defaultCapacity },
    { ArchiveStore },
    { ImageStore },
    { NetworkCap, SERVICE_CAP },
  ] = await Promise.all([
    import("../experiment/backends.ts"),
    import("../sandbox/service/sandbox-service.ts"),
    import("../sandbox/service/capacity.ts"),
    import("../sandbox/service/archives.ts"),
    import("../images/image-store.ts"),
    import("../sandbox/network/network-cap.ts"),
  ]);
  const networkCap = new NetworkCap(capOf(flags), SERVICE_CAP);
  try {
    const provider = await openLocalBackend(backendOf(flags));
    const home = aleHome(cli.env);
    const service = new SandboxService({
      ...{ provider, capacity: defaultCapacity(flags.maxSandboxes), warm: flags.warmSandboxes },
      ...{ archives: new ArchiveStore(home), networkCap },
      onAlert: (alert, { id }) => {
        alerts.add({ ...alert, sandbox: id });
        cli.note(`guard: ${alert.kind} in sandbox ${id}${alert.action === "stop" ? ", stopped" : ""}`);
      },
    });
    await service.loadArchives();
    const close = async () => {
      await service.close();
      await provider.close();
    };
    return { service, imageStore: new ImageStore(home), [Symbol.asyncDispose]: close };
  } catch (error) {
    if (!(error instanceof AleError) || error.code === "usage") throw error;
    cli.note(`no sandboxes: ${sanitizeLine(error.message)}`);
    if (error.hint !== undefined) cli.note(`  next: ${sanitizeLine(error.hint)}`);
    return undefined;
  }
}
