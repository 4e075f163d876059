import { join } from "node:path";
import type { Command } from "commander";
import { aleHome, prepareStorePath } from "../config/paths.ts";
import { sanitizeLine } from "../tui/sanitize.ts";
import { type CommandLine, examples, wholeNumber } from "./command-line.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { storePathOf } from "./stored-runs.ts";

interface ServeFlags {
  readonly port: number;
  readonly store?: string;
  readonly json?: boolean;
}

export function defineServe(command: Command, cli: CommandLine): void {
  command
    .option("--port <n>", "port on 127.0.0.1; 0 picks a free one", wholeNumber("--port", 0, 65_535), 4242)
    .option("--store <file>", "database of runs (default: ale.db in ALE_HOME)")
    .option("--json", "print JSON: url, store, tokenFile")
    .description(
      "Serve the dashboard and the API over all stored runs, running ones included, until Ctrl-C. Reading is open to " +
        "this machine; what changes state needs the token.",
    )
    .addHelpText(
      "after",
      examples(
        ["ale serve", "http://127.0.0.1:4242"],
        ["ale serve --port 0 --json", "on a free port, for programs"],
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
      await using service = serve(createApp({ store, token: loadToken(tokenFile) }), { port: flags.port });
      if (flags.json) cli.printJson({ url: service.url, store: path, tokenFile });
      else {
        cli.print(`dashboard  ${cli.paint("bold", service.url)}`);
        cli.print(`store      ${sanitizeLine(path)}`);
        cli.print(`token      ${sanitizeLine(tokenFile)}`);
        cli.print(cli.paint("dim", "Ctrl-C ends it"));
      }
      using interrupt = listenForInterrupt(false, () => {});
      await new Promise<void>((resolve) => interrupt.signal.addEventListener("abort", () => resolve(), { once: true }));
    });
}
