/** Proofs for `ale doctor` that the native parts load and work on this machine. */

import { AleError, errorMessage } from "../core/errors.ts";
import { ORT_VERSION, ortLibraryPath } from "./library.ts";
import { allocateFloat32 } from "./memory.ts";
import { nativePlaces } from "./natives.ts";
import { Session } from "./session.ts";
import { isCompiled } from "./shipped.ts";
import { float32Value } from "./value.ts";

/** One line of `ale doctor`. */
export interface NativeProbe {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  /** The fix; present when the probe is not ok. */
  readonly hint?: string;
  /** False for what only costs speed or memory. */
  readonly required?: boolean;
}

/** An ONNX model with the one node y = x + x over four floats, as `onnx/builder.ts` encodes it. */
const DOUBLING_MODEL =
  "CAoSA2FsZTpAChUKAXgKAXgSAXkaBUFkZF8wIgNBZGQSBXByb2JlWg8KAXgSCgoICAESBAoCCARiDwoBeRIKCggIARIECgIIBEICEBVCEQoNY29tLm1pY3Jvc29mdBAB";

/** Loads ONNX Runtime and runs a graph, opens libSQL and asks it something, and says where both were loaded from. */
export async function probeNatives(): Promise<NativeProbe[]> {
  const probes = [await probe("ONNX Runtime", runDoubling), await probe("libSQL", queryLibsql)];
  return isCompiled ? [...probes, probeUnpacking()] : probes;
}

async function probe(name: string, work: () => Promise<string> | string): Promise<NativeProbe> {
  try {
    return { name, ok: true, detail: await work() };
  } catch (error) {
    const hint = error instanceof AleError ? error.hint : undefined;
    return {
      name,
      ok: false,
      detail: errorMessage(error),
      hint: hint ?? "reinstall Ale; its native part does not load",
    };
  }
}

function runDoubling(): string {
  const path = ortLibraryPath();
  const session = new Session(Buffer.from(DOUBLING_MODEL, "base64"), { threads: 1 });
  try {
    const x = allocateFloat32(4);
    const y = allocateFloat32(4);
    x.set([1, 2, 3, 4]);
    session.prepare({ x: float32Value(x, [4]) }, { y: float32Value(y, [4]) })();
    if (y.join() !== "2,4,6,8") throw new AleError("engine", `ONNX Runtime computes x + x = ${y.join()} for 1,2,3,4`);
  } finally {
    session.release();
  }
  return `${ORT_VERSION} runs, ${path}`;
}

async function queryLibsql(): Promise<string> {
  const { createClient } = await import("@libsql/client/sqlite3");
  const client = createClient({ url: ":memory:" });
  try {
    const { rows } = await client.execute("select sqlite_version() as version");
    return `opens, SQLite ${rows[0]?.version}`;
  } finally {
    client.close();
  }
}

function probeUnpacking(): NativeProbe {
  const name = "native files";
  const places = nativePlaces();
  const inMemory = places.filter((place) => place.base === undefined).map((place) => place.name);
  const bases = [...new Set(places.map((place) => place.base).filter((base) => base !== undefined))];
  if (inMemory.length === 0) return { name, ok: true, detail: `unpacked in ${bases.join(", ")}` };
  const refused = places.find((place) => place.base === undefined)?.refused ?? [];
  return {
    name,
    ok: false,
    required: false,
    detail: `held in memory: ${inMemory.join(", ")} (${refused.join("; ")})`,
    hint: "set ALE_CACHE_DIR to a folder that is writable and not mounted noexec to save this memory in each process",
  };
}
