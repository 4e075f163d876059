/** Connects this terminal with one in a sandbox, until the program there ends. */

import type { TerminalOutput } from "../../sandbox/requests.ts";

/** A terminal in a sandbox, here or at a service. */
export interface RemoteTerminal {
  read(waitMs: number): Promise<TerminalOutput>;
  write(input: Uint8Array): Promise<void>;
  resize(rows: number, columns: number): Promise<void>;
}

const READ_MS = 10_000;

export function terminalSize(): { readonly rows: number; readonly columns: number } {
  return { rows: process.stdout.rows || 24, columns: process.stdout.columns || 80 };
}

/** Every key goes there, Ctrl-C too; what is shown there is shown here as it is. Returns the exit code. */
export async function attach(terminal: RemoteTerminal): Promise<number> {
  const { stdin, stdout } = process;
  let writing: Promise<void> = Promise.resolve();
  // In order: one key after the other. What cannot be delivered went to a program that has ended.
  const send = (chunk: Uint8Array) => {
    writing = writing.then(() => terminal.write(chunk)).catch(() => {});
  };
  const resize = () => {
    const { rows, columns } = terminalSize();
    terminal.resize(rows, columns).catch(() => {});
  };
  stdin.setRawMode(true);
  stdin.resume();
  stdin.on("data", send);
  stdout.on("resize", resize);
  try {
    for (;;) {
      const { output, ended, exitCode } = await terminal.read(READ_MS);
      if (output.length > 0) stdout.write(output);
      if (ended) return exitCode ?? 1;
    }
  } finally {
    stdin.off("data", send);
    stdout.off("resize", resize);
    stdin.setRawMode(false);
    stdin.pause();
  }
}

/** Whether there is a terminal on both sides. */
export function isInteractive(): boolean {
  return process.stdin.isTTY === true && process.stdout.isTTY === true;
}
