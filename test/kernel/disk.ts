/** The disk of a machine: programs of this one with the libraries they need, Bun, the executable, and the checkout. */

import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { buildCachedLauncher } from "../../src/sandbox/launcher/build.ts";
import { makeBareRoot } from "../binary/bare-root.ts";
import { REPOSITORY } from "./machine.ts";

const PROGRAMS =
  "bash sh awk sed grep cat ls cp mv rm mkdir rmdir ln touch chmod chown dd du df head tail wc seq sort cut tr tee xargs find od " +
  "timeout sleep true false echo printf env id stat truncate mkfifo readlink nohup setsid setpriv mount umount ip ps pgrep pkill kill " +
  "tty stty script base64 sha256sum md5sum cmp diff tar gzip date uname nproc yes sync expr test basename dirname mktemp getconf unshare nsenter taskset prlimit";
/** Also there, where the machine's own has none. */
const BUSYBOX = "poweroff sysctl";
/** What tests of sandboxes import. */
const PACKAGES = ["zod", "smol-toml"];
const PROBES = ["probe"];
const SIZE_MB = 1024;

/** Makes the disk at `path`, by way of `folder`, which is empty and needs about 400 MB. Takes some seconds. */
export async function makeDisk(path: string, folder: string, executable: string): Promise<void> {
  for (const name of ["dev", "proc", "sys", "run", "tmp", "root", "etc", "usr/bin", "usr/local/bin", "home/researcher"])
    mkdirSync(join(folder, name), { recursive: true });
  chownSync(join(folder, "home/researcher"), 1000, 1000);
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    mkdirSync(join(folder, "usr", name), { recursive: true });
    symlinkSync(`usr/${name}`, join(folder, name));
  }
  for (const name of PROGRAMS.split(" ")) copyProgram(folder, name);
  place(folder, Bun.which("busybox") as string, "/usr/bin/busybox");
  for (const name of BUSYBOX.split(" ")) symlinkSync("busybox", join(folder, "usr/bin", name));
  makeBareRoot(folder, executable);
  symlinkSync("../../ale", join(folder, "usr/bin/ale"));
  place(folder, process.execPath, "/usr/bin/bun");
  copyLibraries(folder, process.execPath);
  writeFileSync(
    join(folder, "etc/passwd"),
    "root:x:0:0::/root:/bin/bash\nresearcher:x:1000:1000::/home/researcher:/bin/bash\n",
  );
  writeFileSync(join(folder, "etc/group"), "root:x:0:\nresearcher:x:1000:\n");
  await copyCheckout(folder);
  compileProbes(folder);
  const made = Bun.spawnSync([
    ...["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,root_owner=0:0", "-O", "^has_journal"],
    ...["-d", folder, path, `${SIZE_MB}M`],
  ]);
  if (made.exitCode !== 0) throw new Error(`mke2fs failed: ${made.stderr}`);
}

function place(folder: string, source: string, target: string): void {
  const file = join(folder, target);
  mkdirSync(dirname(file), { recursive: true });
  copyFileSync(realpathSync(source), file);
  chmodSync(file, 0o755);
}

function copyProgram(folder: string, name: string): void {
  const source = Bun.which(name);
  if (source === null) return;
  place(folder, source, `/usr/bin/${name}`);
  copyLibraries(folder, source);
}

function copyLibraries(folder: string, program: string): void {
  const { stdout } = Bun.spawnSync(["ldd", realpathSync(program)], { stderr: "ignore" });
  for (const [library] of stdout.toString().matchAll(/\/\S+/g)) {
    const target = library.startsWith("/usr/") ? library : `/usr${library}`;
    if (!existsSync(join(folder, target)) && existsSync(library)) place(folder, library, target);
  }
}

/** To where it is here: that is part of what the compiled launcher is known by. */
async function copyCheckout(folder: string): Promise<void> {
  const target = join(folder, REPOSITORY);
  mkdirSync(target, { recursive: true });
  for (const name of [
    "src",
    "test/sandbox",
    "test/kernel",
    "sandboxes",
    "package.json",
    "tsconfig.json",
    "bunfig.toml",
  ])
    cpSync(join(REPOSITORY, name), join(target, name), { recursive: true });
  for (const name of PACKAGES)
    cpSync(join(REPOSITORY, "node_modules", name), join(target, "node_modules", name), { recursive: true });
  const launcher = await buildCachedLauncher();
  cpSync(dirname(launcher), join(folder, dirname(launcher)), { recursive: true });
}

/** The machine has no compiler: `cc` there hands out what was compiled here. */
function compileProbes(folder: string): void {
  const script = `#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in -o) target=$2; shift ;; *.c) source=$1 ;; esac
  shift
done
exec cp "/usr/lib/compiled/$(basename "$source")" "$target"
`;
  const compiler = join(folder, Bun.which("cc") ?? "/usr/bin/cc");
  writeFileSync(compiler, script);
  chmodSync(compiler, 0o755);
  mkdirSync(join(folder, "usr/lib/compiled"), { recursive: true });
  for (const name of PROBES) {
    const source = join(REPOSITORY, "test/sandbox", `${name}.c`);
    const target = join(folder, "usr/lib/compiled", basename(source));
    const { exitCode, stderr } = Bun.spawnSync(["cc", "-static", "-O1", "-o", target, source, "-lrt"]);
    if (exitCode !== 0) throw new Error(`cc failed: ${stderr}`);
  }
}
