/** Archives a sandbox over and over, each time with other files, until it is killed. `bun archive-child.ts HOME` */

import { ArchiveStore } from "../../src/sandbox/service/archives.ts";
import { SandboxService } from "../../src/sandbox/service/sandbox-service.ts";
import { createSandboxProvider } from "../../src/sandbox/supervisor.ts";
import { ENVIRONMENT } from "./support.ts";

const home = process.argv[2] ?? "";
const provider = await createSandboxProvider({ maskPaths: [], stateDir: `${home}/sandboxes` });
const capacity = { memoryBytes: 2 ** 32, cpus: 64, diskBytes: 2 ** 32, count: 8 };
const service = new SandboxService({ provider, capacity, archives: new ArchiveStore(home) });
await service.loadArchives();
const known = service.find("box") !== undefined;
if (!known)
  await service.create({ id: "box", environment: { ...ENVIRONMENT, diskBytes: 256 << 20, memoryBytes: 256 << 20 } });
for (;;) {
  if (service.get("box").state === "archived") await service.restore("box");
  // Both files say the same number, unless an archive holds halves of two.
  const script =
    'n=$(cat /work/first 2>/dev/null || echo 0); n=$((n + 1)); echo $n > /work/first; yes $n | head -n 300000 > "/work/many"; echo $n > /opt/last; echo $n';
  const limits = { cwd: "/work", timeoutMs: 20_000, maxOutputBytes: 100 };
  const { output } = await service.get("box").exec(["sh", "-c", script], limits);
  await service.stop("box");
  await service.archive("box");
  process.stdout.write(new TextDecoder().decode(output));
}
