/**
 * A small Linux machine in qemu, without acceleration, for what depends on a kernel's settings: its disk, how it is booted, and what the
 * steps that it ran said. Kernels are Debian's, unpacked by `.ci/kernels` into `.build/kernels`.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { toolObstacle } from "../binary/support.ts";
import { type InitramfsFile, writeInitramfs } from "./initramfs.ts";

export const REPOSITORY: string = resolve(import.meta.dir, "../..");
const KERNELS = join(REPOSITORY, ".build", "kernels");
/** What runs in the machine. */
const GUEST = join(import.meta.dir, "guest");
const MODULES = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"].concat([
  ...["virtio_blk", "overlay"],
]);

export interface Kernel {
  readonly version: string;
  readonly image: string;
  readonly modules: string;
}

/** What the machine runs: a script of sh, with the seconds it may take. */
export interface Step {
  readonly name: string;
  readonly script: string;
  readonly seconds: number;
}

export interface StepResult {
  readonly code: number;
  readonly ms: number;
  readonly output: string;
}

/** Kernels that were unpacked, oldest first. */
export function findKernels(): Kernel[] {
  if (!existsSync(KERNELS)) return [];
  return readdirSync(KERNELS)
    .map((version) => ({
      version,
      image: join(KERNELS, version, "boot", `vmlinuz-${version}`),
      modules: join(KERNELS, version, "lib", "modules", version),
    }))
    .filter(({ image }) => existsSync(image))
    .sort((a, b) => Bun.semver.order(a.version.replace(/[^0-9.].*/, ""), b.version.replace(/[^0-9.].*/, "")));
}

/** Why no machine can be started here, or `undefined`. */
export function machineObstacle(): string | undefined {
  const missing = toolObstacle("qemu-system-x86_64", "mke2fs", "busybox");
  if (missing !== undefined) return missing;
  return findKernels().length === 0 ? "no kernel in .build/kernels (.ci/kernels gets Debian's)" : undefined;
}

/** A driver, unpacked; `undefined` where it is part of the kernel. */
function readModule(kernel: Kernel, name: string): Uint8Array | undefined {
  const found = [...new Bun.Glob(`**/${name}.ko{,.xz}`).scanSync({ cwd: kernel.modules, absolute: true })][0];
  if (found === undefined) return undefined;
  if (!found.endsWith(".xz")) return readFileSync(found);
  const { stdout, exitCode } = Bun.spawnSync(["busybox", "xzcat", found]);
  if (exitCode !== 0) throw new Error(`${found} cannot be unpacked`);
  return stdout;
}

function initramfs(kernel: Kernel, steps: readonly Step[]): Uint8Array {
  const own = (name: string) => readFileSync(join(GUEST, name));
  const folders = ["bin", "dev", "proc", "sys", "modules", "steps", "guest"].map((path): InitramfsFile => ({ path }));
  const modules = MODULES.flatMap((name): InitramfsFile[] => {
    const content = readModule(kernel, name);
    return content === undefined ? [] : [{ path: `modules/${name}.ko`, content }];
  });
  const scripts = steps.map(({ name, script, seconds }, index): InitramfsFile => {
    const order = String(index).padStart(2, "0");
    return { path: `steps/${order}-${name}`, content: Buffer.from(`#limit ${seconds}\n${script}\n`) };
  });
  return writeInitramfs([
    ...folders,
    { path: "bin/busybox", content: readFileSync(Bun.which("busybox") as string) },
    { path: "init", content: own("init.sh") },
    ...["run.sh", "groups.sh", "in-container.sh"].map((name) => ({ path: `guest/${name}`, content: own(name) })),
    ...modules,
    ...scripts,
  ]);
}

/**
 * Starts a machine with a copy of `disk`, waits until it has run all steps and switched itself off.
 * @throws Error with the end of what the console said when a step told nothing, or `seconds` were over.
 */
export async function runMachine(
  kernel: Kernel,
  disk: string,
  steps: readonly Step[],
  seconds: number,
): Promise<Map<string, StepResult>> {
  const folder = await mkdtemp(join(tmpdir(), "ale-machine-"));
  const path = (name: string) => join(folder, name);
  try {
    await writeFile(path("initramfs"), initramfs(kernel, steps));
    const child = Bun.spawn(
      [
        ...["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"],
        ...["-nodefaults", "-display", "none", "-no-reboot", "-kernel", kernel.image, "-initrd", path("initramfs")],
        ...["-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all"],
        ...["-drive", `file=${disk},format=raw,if=virtio,snapshot=on`],
        ...["-serial", `file:${path("console")}`, "-serial", `file:${path("results")}`],
      ],
      { env: { ...process.env, TMPDIR: folder }, stdio: ["ignore", "ignore", "pipe"], timeout: seconds * 1000 },
    );
    const [said] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    const results = parseResults(await Bun.file(path("results")).text());
    if (results.size === steps.length) return results;
    const console = (await Bun.file(path("console")).text()).slice(-4000);
    throw new Error(`the machine ran ${results.size} of ${steps.length} steps:\n${console}\n${said}`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function parseResults(text: string): Map<string, StepResult> {
  const results = new Map<string, StepResult>();
  for (const line of text.split("\n")) {
    const [, name, code, ms, output = ""] = /^\d+-(\S+) (\d+) (\d+) (\S*)/.exec(line) ?? [];
    if (name === undefined) continue;
    results.set(name, { code: Number(code), ms: Number(ms), output: Buffer.from(output, "base64").toString() });
  }
  return results;
}
