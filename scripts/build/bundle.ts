/** Bundles `src/` and the staged files into one executable. */

import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import type { BunPlugin } from "bun";
import { REPOSITORY } from "../repository.ts";

const NATIVES = join(REPOSITORY, "src", "runtime", "natives.ts");

/**
 * The libSQL package looks for its addon in `node_modules`; in the executable it must take ours. The rewritten line is
 * checked, so that an upgrade which changes it fails here and not on a user's machine.
 */
const nativeAddons: BunPlugin = {
  name: "native addons from the executable",
  setup(build) {
    build.onLoad({ filter: /node_modules\/libsql\/index\.js$/ }, ({ path }) => {
      const source = readFileSync(path, "utf8");
      // From the first line about finding the addon to the end of the function that returns it.
      const pattern = /const \{ load, currentTarget \}[\s\S]*?\nfunction requireNative\(\) \{[\s\S]*?\n\}\n/g;
      if (source.match(pattern)?.length !== 1) {
        throw new Error(`${path} no longer finds its addon in requireNative(); adapt scripts/build/bundle.ts`);
      }
      const loader = `function requireNative() { return require(${JSON.stringify(NATIVES)}).loadLibsqlAddon(); }\n`;
      return { contents: source.replace(pattern, () => loader), loader: "js" };
    });
  },
};

/**
 * Every `src/**\/*.worker.ts` is an entry of its own. In the executable all entries lie in one folder (`naming` below) and
 * so does the code that starts them, so the one form that works there and in a checkout is
 * `new Worker(new URL("./name.worker.ts", import.meta.url).href)` from a file in the worker's own folder, with file names
 * that are unique in the repository. (Without the flat naming, Bun 1.4.5 does not find a worker of a nested folder.)
 * @throws Error for a worker that is started differently.
 */
export function findWorkers(root: string = REPOSITORY): string[] {
  const sources = [...new Bun.Glob("src/**/*.ts").scanSync({ cwd: root })].sort();
  const workers = sources.filter((path) => path.endsWith(".worker.ts"));
  const names = workers.map((path) => basename(path));
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new Error(`two workers are named ${twice}; the executable needs different names`);
  for (const path of sources.filter((source) => !source.endsWith(".test.ts"))) {
    for (const [, url] of readFileSync(join(root, path), "utf8").matchAll(/new URL\("([^"]*\.worker\.ts)"/g)) {
      const inPlace = url?.startsWith("./") && workers.includes(join(dirname(path), url));
      if (!inPlace) throw new Error(`${path} starts ${url}; a worker lies in the folder of the file that starts it`);
    }
  }
  return workers.map((path) => join(root, path));
}

/** The commit this is built from, for `ale version`; a copy without git history has none. */
function revision(): Record<string, string> {
  if (Bun.which("git") === null) return {};
  const git = (...args: string[]) => Bun.spawnSync(["git", "-C", REPOSITORY, ...args], { timeout: 10_000 });
  const commit = git("rev-parse", "--short=12", "HEAD");
  if (commit.exitCode !== 0) return {};
  const changed = git("status", "--porcelain", "--untracked-files=no").stdout.length > 0;
  return { ALE_REVISION: JSON.stringify(commit.stdout.toString().trim() + (changed ? " with changes" : "")) };
}

/** Writes the executable to `outFile`. @throws Error with the bundler's messages. */
export async function bundleExecutable(embedFolder: string, outFile: string): Promise<void> {
  // Paths of assets and entries are taken relative to the working folder.
  process.chdir(REPOSITORY);
  try {
    await Bun.build({
      entrypoints: [join(REPOSITORY, "src", "main.ts"), ...findWorkers()],
      target: "bun",
      format: "esm",
      // Chunks make `ale --version` load a few kilobytes, bytecode spares parsing the rest.
      splitting: true,
      bytecode: true,
      minify: true,
      // Stack traces in reports of faults name our files and lines.
      sourcemap: "linked",
      naming: { entry: "[name].[ext]" },
      define: { "process.env.NODE_ENV": '"production"', ...revision() },
      plugins: [nativeAddons],
      compile: {
        target: "bun-linux-x64",
        outfile: outFile,
        assets: [relative(REPOSITORY, embedFolder)],
        // An executable behaves the same in every folder it is started in.
        autoloadDotenv: false,
        autoloadBunfig: false,
        autoloadTsconfig: false,
        autoloadPackageJson: false,
      },
    });
  } catch (error) {
    if (error instanceof AggregateError) throw new Error(error.errors.map(String).join("\n"), { cause: error });
    throw error;
  }
  if (!existsSync(outFile)) throw new Error(`the bundler wrote no ${outFile}`);
}
