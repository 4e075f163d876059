/** `/v1/sandboxes/:id`: programs, shells, commands in the background, terminals. */

import type { Context, Hono } from "hono";
import { z } from "zod";
import type { ManagedSandbox } from "../../sandbox/service/managed-sandbox.ts";
import type { SandboxService } from "../../sandbox/service/sandbox-service.ts";
import { HttpError } from "../http-error.ts";
import { readBody, readQuery } from "../json-body.ts";
import * as shapes from "./shapes.ts";

const LogQuery = z.object({
  offset: z.coerce.number().int().min(0).default(0),
  bytes: z.coerce
    .number()
    .int()
    .min(1)
    .max(1 << 20)
    .default(64 << 10),
});
const OutputQuery = z.object({ waitMs: z.coerce.number().int().min(0).max(30_000).default(0) });

export function addCommandRoutes(app: Hono, service: SandboxService): void {
  const named = (c: Context): ManagedSandbox => service.get(c.req.param("id") ?? "");
  addExec(app, named);
  addShells(app, named);
  addCommands(app, named);
  addTerminals(app, named);
}

type Named = (c: Context) => ManagedSandbox;

function addExec(app: Hono, named: Named): void {
  app.post("/:id/exec", async (c) => {
    const body = await readBody(c, shapes.ExecBody);
    const sandbox = named(c);
    const result = await sandbox.exec(shapes.programOf(body.command), {
      cwd: sandbox.resolve(body.cwd ?? "."),
      env: body.env,
      user: body.user,
      stdin: shapes.inputOf(body),
      timeoutMs: shapes.limitMs(body.timeoutSeconds),
      maxOutputBytes: body.maxOutputBytes,
      signal: c.req.raw.signal,
    });
    const { status, exitCode, truncated, ms, outputBytes, errorOutputBytes } = result;
    return c.json({
      ...{ status, exitCode, truncated, ms },
      stdout: shapes.outputText(result.output, body.encoding),
      stderr: shapes.outputText(result.errorOutput, body.encoding),
      stdoutBytes: outputBytes,
      stderrBytes: errorOutputBytes,
    });
  });
}

function toPattern(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch {
    throw new HttpError(400, "bad_request", `expect: ${text} is no regular expression`);
  }
}

function addShells(app: Hono, named: Named): void {
  app.get("/:id/shells", (c) => {
    const shells = named(c).shells.map(({ name, busy, options }) => ({ name, busy, ...options }));
    return c.json({ shells });
  });
  app.post("/:id/shells", async (c) => {
    const { name, cwd, env, user } = await readBody(c, shapes.ShellBody);
    const sandbox = named(c);
    const shell = await sandbox.openShell(name, { cwd: sandbox.resolve(cwd ?? "."), env, user });
    return c.json({ name: shell.name }, 201);
  });
  app.post("/:id/shells/:name/run", async (c) => {
    const body = await readBody(c, shapes.RunBody);
    const result = await named(c).runInShell(c.req.param("name"), body.command, {
      timeoutMs: shapes.limitMs(body.timeoutSeconds),
      maxOutputBytes: body.maxOutputBytes,
      checkSyntax: body.checkSyntax,
      interactive: body.interactive,
      expect: body.expect.map(toPattern),
      signal: c.req.raw.signal,
    });
    const { status, exitCode, truncated, ms, outputBytes, restarted, matched } = result;
    const output = shapes.outputText(result.output, body.encoding);
    return c.json({ status, exitCode, output, outputBytes, truncated, ms, restarted, matched: matched ?? null });
  });
  app.post("/:id/shells/:name/interrupt", async (c) =>
    c.json({ interrupted: await named(c).shell(c.req.param("name")).interrupt() }),
  );
  app.delete("/:id/shells/:name", async (c) => {
    await named(c).closeShell(c.req.param("name"));
    return c.body(null, 204);
  });
}

function addCommands(app: Hono, named: Named): void {
  app.get("/:id/commands", (c) => c.json({ commands: named(c).commands.map(shapes.describeCommand) }));
  app.post("/:id/commands", async (c) => {
    const body = await readBody(c, shapes.CommandBody);
    const sandbox = named(c);
    const command = await sandbox.startCommand({
      argv: shapes.programOf(body.command),
      cwd: sandbox.resolve(body.cwd ?? "."),
      env: body.env,
      user: body.user,
      stdin: shapes.inputOf(body),
      timeoutMs: shapes.limitMs(body.timeoutSeconds),
      maxLogBytes: body.maxLogBytes,
    });
    return c.json(shapes.describeCommand(command), 201);
  });
  app.get("/:id/commands/:command", (c) => c.json(shapes.describeCommand(named(c).command(c.req.param("command")))));
  app.get("/:id/commands/:command/log", async (c) => {
    const { offset, bytes } = readQuery(c, LogQuery);
    const sandbox = named(c);
    const { logPath } = sandbox.command(c.req.param("command"));
    const { size, content } = await sandbox.withFiles((files) => files.readPart(logPath, offset, bytes));
    return c.body(content.slice().buffer, 200, {
      "Content-Type": "application/octet-stream",
      "X-Log-Bytes": String(size),
    });
  });
  app.delete("/:id/commands/:command", async (c) => {
    const command = named(c).command(c.req.param("command"));
    command.kill();
    await command.ended;
    return c.json(shapes.describeCommand(command));
  });
}

function addTerminals(app: Hono, named: Named): void {
  const terminal = (c: Context) => named(c).terminal(Number(c.req.param("terminal")));
  app.post("/:id/terminals", async (c) => {
    const { command, cwd, env, user, rows, columns } = await readBody(c, shapes.TerminalBody);
    const sandbox = named(c);
    const argv = shapes.programOf(command);
    const opened = await sandbox.openTerminal({ argv, cwd: sandbox.resolve(cwd ?? "."), env, user, rows, columns });
    return c.json({ terminal: opened.number }, 201);
  });
  // Output is taken once: what one reader got, the next does not see.
  app.get("/:id/terminals/:terminal/output", async (c) => {
    const { waitMs } = readQuery(c, OutputQuery);
    const { output, ended, exitCode } = await named(c).use(() => terminal(c).read(waitMs));
    return c.json({ output: shapes.outputText(output, "base64"), ended, exitCode });
  });
  app.post("/:id/terminals/:terminal/input", async (c) => {
    await terminal(c).write(new Uint8Array(await c.req.arrayBuffer()));
    return c.body(null, 204);
  });
  app.post("/:id/terminals/:terminal/size", async (c) => {
    const { rows, columns } = await readBody(c, shapes.SizeBody);
    await terminal(c).resize(rows, columns);
    return c.body(null, 204);
  });
  app.delete("/:id/terminals/:terminal", async (c) => {
    await named(c).closeTerminal(Number(c.req.param("terminal")));
    return c.body(null, 204);
  });
}
