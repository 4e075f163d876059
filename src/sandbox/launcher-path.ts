/** Where the launcher's executable is: unpacked by the compiled `ale`, or built from source in development. */

let known: Promise<string> | undefined;

/** Called once at start-up by the compiled executable, with the path of the unpacked launcher. */
export function setLauncherPath(path: string): void {
  known = Promise.resolve(path);
}

/**
 * Path of an executable launcher.
 * @throws AleError("sandbox") when it has to be built and cannot be.
 */
export function launcherPath(): Promise<string> {
  known ??= import("./launcher/build.ts").then((build) => build.buildCachedLauncher());
  return known;
}
