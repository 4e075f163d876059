import { release } from "node:os";
import { dependencies } from "../../package.json";
import { VERSION } from "../core/version.ts";

/** Set by the build (`define`); absent when the source is run. */
declare const ALE_REVISION: string | undefined;

/** Versions of Ale and of what decides its results. */
export function versionInfo(): Readonly<Record<string, string>> {
  return {
    ale: VERSION,
    revision: typeof ALE_REVISION === "string" ? ALE_REVISION : "source",
    bun: `${Bun.version} (${Bun.revision.slice(0, 9)})`,
    onnxruntime: dependencies["onnxruntime-node"],
    libsql: dependencies["@libsql/client"],
    platform: `${process.platform}-${process.arch}`,
    kernel: release(),
  };
}
