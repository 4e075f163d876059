/** Where the launcher's executable is: unpacked by the compiled `ale`, or built from source in development. */

let known: Promise<string> | undefined;

let unpack: (() => Promise<string>) | undefined;

/** Called once at start-up by the compiled executable; `unpackLauncher` is called when the first sandbox is made. */
export function setLauncherPath(unpackLauncher: () => Promise<string>): void {
  unpack = unpackLauncher;
  known = undefined;
}

/**
 * Path of an executable launcher.
 * @throws AleError("sandbox") when it has to be built and cannot be.
 */
export function launcherPath(): Promise<string> {
  known ??= locate();
  return known;
}

async function locate(): Promise<string> {
  if (unpack !== undefined) return unpack();
  return (await import("./launcher/build.ts")).buildCachedLauncher();
}
