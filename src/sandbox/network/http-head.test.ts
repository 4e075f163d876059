import { expect, test } from "bun:test";
import { bodyFraming, forwardedHead, parseAbsolute, parseAuthority, type RequestHead, readHead } from "./http-head.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
function head(text: string): RequestHead {
  const read = readHead(bytes(text));
  if (read.kind !== "head") throw new Error(read.kind === "bad" ? read.reason : "more");
  return read.head;
}

test("heads come whole or not at all, and odd ones are refused", () => {
  const text = "GET http://a/ HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\nrest";
  expect(head(text)).toMatchObject({
    method: "GET",
    target: "http://a/",
    headers: [
      ["Host", "a"],
      ["X-Y", "z"],
    ],
  });
  expect(new TextDecoder().decode(head(text).rest)).toBe("rest");
  for (let length = 0; length < text.length - 4; length++)
    expect(readHead(bytes(text.slice(0, length))).kind).toBe("more");
  for (const line of ["X : y", " folded", "X\x00: y", "X: \x01", "no colon", "X: a\nY: b", "X: a\rb"])
    expect([line, readHead(bytes(`GET http://a/ HTTP/1.1\r\n${line}\r\n\r\n`)).kind]).toEqual([line, "bad"]);
  for (const line of [
    "GET  / HTTP/1.1",
    "get / HTTP/1.1",
    "GET / HTTP/2.0",
    "GET /",
    "GET / x HTTP/1.1",
    "\r\nGET / HTTP/1.1",
  ])
    expect([line, readHead(bytes(`${line}\r\n\r\n`)).kind]).toEqual([line, "bad"]);
  expect(readHead(bytes(`GET / HTTP/1.1\r\nX: ${"y".repeat(20_000)}`)).kind).toBe("bad");
});

test("authorities and absolute targets", () => {
  expect(parseAuthority("a.example:80")).toEqual({ host: "a.example", port: 80 });
  expect(parseAuthority("[::1]:443")).toEqual({ host: "[::1]", port: 443 });
  for (const text of ["a:b@c", "a:0", "a:99999", "a/b", "[::1", "a:80:80", "", "a\\b"])
    expect(parseAuthority(text)).toBeUndefined();
  expect(parseAbsolute("http://a.example:8080?x=1")).toEqual({ authority: "a.example:8080", path: "/?x=1" });
  for (const text of ["/x", "https://a/", "http://a@b/", "http://", "http://a#b", "http://a\\@b/"])
    expect(parseAbsolute(text)).toBeUndefined();
});

test("what is passed on is one request, without what was meant for the proxy", () => {
  const request = head(
    "POST http://a/x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Private, Host, Content-Length\r\nX-Private: 1\r\nProxy-Authorization: s\r\nUpgrade: h2c\r\nContent-Length: 2\r\nX-Kept: 1\r\n\r\n",
  );
  expect(forwardedHead(request, "/x")).toBe(
    "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-Kept: 1\r\nConnection: close\r\n\r\n",
  );
});

test("bodies end where their head says, however they arrive", () => {
  const framing = (headers: string) => bodyFraming(head(`POST http://a/ HTTP/1.1\r\nHost: a\r\n${headers}\r\n`));
  for (const [headers, body] of [
    ["Content-Length: 5\r\n", "hello"],
    ["Transfer-Encoding: chunked\r\n", "5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"],
    ["", ""],
  ] as const) {
    for (const size of [1, 3, 1000]) {
      const counter = framing(headers);
      const all = bytes(`${body}GET / HTTP/1.1\r\n`);
      let taken = 0;
      for (let at = 0; at < all.length; at += size) taken += counter?.take(all.subarray(at, at + size)) ?? Number.NaN;
      expect([headers, size, taken, counter?.done]).toEqual([headers, size, body.length, true]);
    }
  }
  for (const headers of [
    "Content-Length: 1\r\nContent-Length: 1\r\n",
    "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: 1, 1\r\n",
  ])
    expect([headers, framing(headers)]).toEqual([headers, undefined]);
  for (const body of ["5\nhello", "x\r\n", "5\r\nhelloX", "-1\r\n", "fffffffffffff\r\n"])
    expect([body, framing("Transfer-Encoding: chunked\r\n")?.take(bytes(body))]).toEqual([body, -1]);
});
