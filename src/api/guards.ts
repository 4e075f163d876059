/** What every request must pass, and what every answer carries. */

import type { Context, MiddlewareHandler } from "hono";
import { HttpError } from "./http-error.ts";
import { tokensMatch } from "./token.ts";

const LOCAL_NAMES: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** Nothing is loaded from elsewhere, nothing inline runs, no page may frame this one. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

const HEADERS: Readonly<Record<string, string>> = {
  "Content-Security-Policy": CONTENT_SECURITY_POLICY,
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/** For what a sandbox answered: no scripts, no requests, and an origin of its own, whatever it says. */
export const FOREIGN_CONTENT =
  "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'";

export const securityHeaders: MiddlewareHandler = async (c, next) => {
  await next();
  const foreign = c.res.headers.get("Content-Security-Policy") === FOREIGN_CONTENT;
  for (const [name, value] of Object.entries(HEADERS)) c.res.headers.set(name, value);
  if (foreign) c.res.headers.set("Content-Security-Policy", FOREIGN_CONTENT);
  if (!c.res.headers.has("Cache-Control")) c.res.headers.set("Cache-Control", "no-store");
};

/**
 * Only names of this machine: a foreign page whose name was made to point to 127.0.0.1 (DNS rebinding) sends its own.
 * `extra` are names the operator serves under.
 */
export function requireLocalHost(extra: readonly string[] = []): MiddlewareHandler {
  const allowed = new Set([...LOCAL_NAMES, ...extra.map((name) => name.toLowerCase())]);
  return async (c, next) => {
    const host = c.req.header("host") ?? new URL(c.req.url).host;
    const name = host.replace(/:\d+$/, "").toLowerCase();
    if (!allowed.has(name)) {
      throw new HttpError(403, "forbidden_host", `this service does not answer for ${host}`, "use http://127.0.0.1");
    }
    await next();
  };
}

/** No requests that a browser makes for pages of others, or for what a sandbox answered: it may add a remembered password. */
export const requireSameSite: MiddlewareHandler = async (c, next) => {
  const site = c.req.header("sec-fetch-site") ?? "none";
  const origin = c.req.header("origin");
  const foreign = origin !== undefined && URL.parse(origin)?.host !== (c.req.header("host") ?? new URL(c.req.url).host);
  if (foreign || (site !== "none" && site !== "same-origin"))
    throw new HttpError(403, "forbidden_origin", "this service does not answer pages of other sites");
  await next();
};

/** The token of `Authorization`: after `Bearer`, or as the password of `Basic`, which clients make of `http://ale:TOKEN@host`. */
function authorized(header: string): string | undefined {
  const [, scheme, value] = /^(Bearer|Basic)\s+(.+)$/i.exec(header) ?? [];
  if (scheme === undefined || value === undefined || scheme.toLowerCase() === "bearer") return value;
  return Buffer.from(value.trim(), "base64")
    .toString("utf8")
    .replace(/^[^:]*:/, "");
}

/** `Authorization`, `X-API-Key` or `X-Key`, so that foreign SDKs fit. */
function givenToken({ req }: Context): string | undefined {
  return authorized(req.header("authorization") ?? "") ?? req.header("x-api-key") ?? req.header("x-key");
}

export function hasToken(c: Context, token: string): boolean {
  const given = givenToken(c);
  return given !== undefined && tokensMatch(given.trim(), token);
}

export function requireToken(token: string): MiddlewareHandler {
  return async (c, next) => {
    if (!hasToken(c, token)) {
      const given = givenToken(c);
      c.header("WWW-Authenticate", "Bearer");
      throw new HttpError(
        401,
        "unauthorized",
        given === undefined ? "this request needs the token of the service" : "wrong token",
        "send it as Authorization: Bearer …; ale serve prints the file that holds it",
      );
    }
    await next();
  };
}
