import { release } from "node:os";
import { dependencies, version } from "../../package.json";

/** Set by the build (`define`); absent when the source is run. */
declare const ALE_REVISION: string | undefined;

/** Versions of Ale and of what decides its results. */
export function versionInfo(): Readonly<Record<string, string>> {
  return {
    ale: version,
    revision: typeof ALE_REVISION === "string" ? ALE_REVISION : "source",
    bun: `${Bun.version} (${Bun.revision.slice(0, 9)})`,
    onnxruntime: dependencies["onnxruntime-node"],
    libsql: dependencies["@libsql/client"],
    platform: `${process.platform}-${process.arch}`,
    kernel: release(),
  };
}
