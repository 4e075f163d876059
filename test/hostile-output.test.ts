/** What agents write, shown: markup on the page and in the report stays text, whatever a real browser makes of it. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Hono } from "hono";
import { createApp } from "../src/api/app.ts";
import { type Service, serve } from "../src/api/serve.ts";
import { exportRun } from "../src/export/export-run.ts";
import { evidence } from "../src/sandbox/guards/evidence.ts";
import { openStore, type Store } from "../src/store/store.ts";
import { sanitizeLine } from "../src/tui/sanitize.ts";
import { writeSampleRun } from "./sample-run.ts";

const ATTACK = "document.title='hacked'";
const HOSTILE = [
  `</pre></td></script></style><script>${ATTACK}</script>`,
  `<img src=x onerror="${ATTACK}"><svg onload="${ATTACK}"></svg><iframe srcdoc="<script>parent.${ATTACK}</script>"></iframe>`,
  `<a href="javascript:${ATTACK}">x</a>{{constructor.constructor("${ATTACK}")()}}<style>body{display:none}</style>`,
  "\u001b]0;hacked\u0007\u001b[2J\u001b[8m\u009b31m\u202e\u2066\u0000",
].join("\n");

const browser = ["chromium", "chromium-browser", "google-chrome"].find((name) => Bun.which(name) !== null);
if (browser === undefined) console.log("skipped: hostile output in a browser: chromium is not installed");

let folder: string;
let store: Store;
let service: Service;
let runId: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ale-hostile-"));
  store = await openStore(join(folder, "ale.db"));
  runId = await writeSampleRun(store, { steps: 3, groups: 3, groupSize: 2, hostile: HOSTILE });
  const alert = { kind: "tunnel", at: 1, turn: null, evidence: HOSTILE, action: "stop", sandbox: "sb-1" } as const;
  await store.appendAlerts([alert, { ...alert, evidence: evidence(HOSTILE) }]);
  await exportRun(store, runId, join(folder, "out"));
  // A stream of events never ends, and with it a page that is dumped once all it loads has ended.
  const app = new Hono();
  app.get("/v1/events", (c) => c.body(null, 204));
  app.route("/", createApp({ store, token: "t".repeat(24) }));
  service = serve(app, { port: 0 });
});
afterAll(async () => {
  await service?.close();
  await store?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** The page as it stands after its scripts have run. */
async function domOf(address: string): Promise<string> {
  const profile = mkdtempSync(join(tmpdir(), "ale-browser-"));
  const flags = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--virtual-time-budget=5000",
    `--user-data-dir=${profile}`,
  ];
  const child = Bun.spawn([browser as string, ...flags, "--dump-dom", address], { stdout: "pipe", stderr: "ignore" });
  const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
  const dom = await new Response(child.stdout).text();
  await child.exited;
  clearTimeout(timer);
  rmSync(profile, { recursive: true, force: true });
  return dom;
}

async function expectHarmless(dom: string, shown: string): Promise<void> {
  const tags: string[] = [];
  const handlers: string[] = [];
  let title = "";
  await new HTMLRewriter()
    .on("*", {
      element: ({ tagName, attributes }) => {
        tags.push(tagName);
        for (const [name, value] of attributes)
          if (/^on/.test(name) || /^javascript:/i.test(value)) handlers.push(name);
      },
    })
    .on("title", {
      text: ({ text }) => {
        title += text;
      },
    })
    .transform(new Response(dom))
    .text();
  expect(dom).toContain(shown);
  expect(title).not.toContain("hacked");
  expect(handlers).toEqual([]);
  for (const tag of ["img", "iframe", "object"]) expect(tags).not.toContain(tag);
}

test.skipIf(browser === undefined)(
  "in the transcript, on the page",
  async () => {
    const episode = encodeURIComponent(`${runId}/train/1/1/0`);
    const dom = await domOf(`${service.url}/#/${runId}/episode/${episode}`);
    await expectHarmless(dom, "&lt;img src=x onerror=");
    expect(dom).toContain("\\u{1b}]0;hacked\\u{7}");
  },
  90_000,
);

test.skipIf(browser === undefined)(
  "in the report",
  async () => {
    await expectHarmless(await domOf(`file://${join(folder, "out/report.html")}`), "&lt;script&gt;");
  },
  90_000,
);

test("in alerts: evidence is one printable line before it is stored, and where it is not ours it is shown as text", async () => {
  const line = evidence(HOSTILE);
  expect(line).toMatch(/^[\x20-\x7e]{1,300}$/);
  const strange = [...sanitizeLine(HOSTILE)].filter((one) => !/[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}]/u.test(one));
  expect(strange).toEqual([]);
});

test.skipIf(browser === undefined)(
  "in the list of alerts",
  async () => {
    // The page with its token, so that evidence is shown.
    const dom = await domOf(`${service.url}/#/alerts`);
    await expectHarmless(dom, "only for who has the token");
    const own = await domOf(`${service.url}/#/${runId}`);
    await expectHarmless(own, "ssh -R forwards");
  },
  120_000,
);
