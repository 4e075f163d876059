/**
 * Builds the page. As a macro this runs while the executable is bundled, and at import under `bun run`: both serve the same
 * three texts from memory. A bundler cannot run inside a bundler, so it is a process of its own.
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Page {
  readonly html: string;
  readonly script: string;
  readonly style: string;
}

const BUILD_MS = 60_000;

export function buildPage(): Page {
  const folder = mkdtempSync(join(tmpdir(), "ale-page-"));
  try {
    const entry = join(import.meta.dir, "main.tsx");
    const { exitCode, stderr } = Bun.spawnSync({
      cmd: [
        ...[process.execPath, "build", entry, "--outdir", folder, "--target", "browser", "--minify"],
        ...["--define", 'process.env.NODE_ENV="production"', "--no-env-file"],
      ],
      cwd: join(import.meta.dir, "..", ".."),
      stdout: "ignore",
      stderr: "pipe",
      timeout: BUILD_MS,
    });
    if (exitCode !== 0) throw new Error(`the page cannot be built: ${stderr.toString()}`);
    return {
      html: readFileSync(join(import.meta.dir, "index.html"), "utf8"),
      script: readFileSync(join(folder, "main.js"), "utf8"),
      style: readFileSync(join(folder, "main.css"), "utf8"),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
