/** The HTTP surfaces over real sandboxes, for the tests of each. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createApp } from "../../src/api/app.ts";
import { mountSandboxes } from "../../src/api/sandboxes/mount.ts";
import { serve } from "../../src/api/serve.ts";
import { ImageStore } from "../../src/images/image-store.ts";
import type { NetworkCap } from "../../src/sandbox/network/network-cap.ts";
import { ArchiveStore } from "../../src/sandbox/service/archives.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { openStore } from "../../src/store/store.ts";
import { openProvider } from "./support.ts";

export const TOKEN = "test-token-0123456789";

/** What a body of JSON is to the type checker. */
export type Json = Awaited<ReturnType<Response["json"]>>;

export interface Answer {
  readonly status: number;
  readonly json: Json;
  readonly bytes: Uint8Array;
}

export interface TestApi extends AsyncDisposable {
  readonly url: string;
  readonly folder: string;
  readonly sandboxes: SandboxService;
  /** Sends JSON, or bytes as they are, with the token. */
  call(method: string, path: string, body?: unknown): Promise<Answer>;
}

export async function openApi(networkCap?: NetworkCap): Promise<TestApi> {
  const folder = mkdtempSync(join(tmpdir(), "ale-sandbox-api-"));
  const store = await openStore(join(folder, "ale.db"));
  const imageStore = new ImageStore(join(folder, "home"));
  const provider = await openProvider({ resolveImage: imageStore.resolve });
  const capacity = { memoryBytes: 2 ** 34, cpus: 64, diskBytes: 2 ** 36, count: 16 };
  const archives = new ArchiveStore(join(folder, "home"));
  const sandboxes = new SandboxService({ provider, capacity, archives, warm: 1, networkCap });
  const app = createApp({ store, token: TOKEN });
  const images = new Map([["python:3.11", "host"]]);
  mountSandboxes(app, {
    service: sandboxes,
    token: TOKEN,
    images,
    imageStore,
    gemMaxTurns: 3,
    envHubFile: join(folder, "envhub.json"),
  });
  const http = serve(app, { port: 0 });
  return {
    url: http.url,
    folder,
    sandboxes,
    call: (method, path, body) => send(http.url + path, method, body),
    [Symbol.asyncDispose]: async () => {
      await http.close();
      await sandboxes.close();
      await provider.close();
      await store.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function send(url: string, method: string, body: unknown): Promise<Answer> {
  const raw = body instanceof Uint8Array;
  const response = await fetch(url, {
    method,
    headers: { "X-Key": TOKEN, ...(raw || body === undefined ? {} : { "Content-Type": "application/json" }) },
    ...(body === undefined ? {} : { body: raw ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body) }),
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  const isJson = response.headers.get("content-type")?.includes("json") ?? false;
  return { status: response.status, bytes, json: isJson ? JSON.parse(new TextDecoder().decode(bytes)) : undefined };
}
