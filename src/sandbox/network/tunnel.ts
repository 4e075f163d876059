/** Two sockets joined: bytes both ways, counted, held up when the other side is slow, ended when nothing moves. */

import type { Socket } from "node:net";
import { errorMessage } from "../../core/errors.ts";
import type { OpenConnection } from "./connection-log.ts";

export interface TunnelOptions {
  readonly connection: OpenConnection;
  /** Which way bytes of the first socket go, as the sandbox sees it. */
  readonly first: "out" | "in";
  /** Ended after this long without a byte either way, and after this long in all. Milliseconds. */
  readonly idleMs: number;
  readonly totalMs: number;
  /** What of each chunk of the first socket is passed on; what it throws ends the tunnel. */
  readonly filter?: (chunk: Buffer) => Buffer;
}

/** Why a tunnel ended before its time; empty: both sides were done, or one left. Denied: it would have passed a limit. */
export interface TunnelEnd {
  readonly verdict: "allowed" | "denied";
  readonly reason: string;
}

/** Joins `a` and `b` until both have ended or one is gone. What was read from `a` before is written by the caller. */
export function joinSockets(a: Socket, b: Socket, options: TunnelOptions): Promise<TunnelEnd> {
  const { connection, first, idleMs, totalMs, filter } = options;
  const done = Promise.withResolvers<TunnelEnd>();
  let moved = performance.now();
  const finish = (reason: string, verdict: TunnelEnd["verdict"] = "allowed") => {
    clearInterval(idle);
    clearTimeout(total);
    a.destroy();
    b.destroy();
    done.resolve({ verdict, reason });
  };
  const total = setTimeout(() => finish(`it took more than ${totalMs / 1000} s`), totalMs);
  const idle = setInterval(() => {
    if (performance.now() - moved >= idleMs) finish(`nothing was sent for ${idleMs / 1000} s`);
  }, idleMs / 4);
  const pump = (from: Socket, to: Socket, way: "out" | "in") => {
    from.on("data", (read: Buffer) => {
      moved = performance.now();
      let chunk = read;
      try {
        if (filter !== undefined && from === a) chunk = filter(read);
      } catch (error) {
        return finish(errorMessage(error), "denied");
      }
      if (way === "out") connection.bytesOut += chunk.length;
      else connection.bytesIn += chunk.length;
      const exceeded = connection.exceeds();
      if (exceeded !== undefined) return finish(exceeded, "denied");
      if (!to.write(chunk)) {
        from.pause();
        to.once("drain", () => from.resume());
      }
    });
    from.on("end", () => to.end());
    from.on("error", () => finish(""));
    from.on("close", () => {
      if (to.destroyed || to.writableFinished) return finish("");
      to.once("finish", () => finish(""));
      to.end();
    });
    from.resume();
  };
  pump(a, b, first);
  pump(b, a, first === "out" ? "in" : "out");
  if (a.destroyed || b.destroyed) finish(""); // told before anybody listened
  return done.promise;
}
