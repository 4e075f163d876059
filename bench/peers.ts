/** Programs that take turns: each is a process that answers a line with a line, so that neither disturbs the other. */

export class Peer {
  readonly #process: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #lines: AsyncIterator<string>;

  constructor(command: string[]) {
    this.#process = Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "inherit" });
    this.#lines = readLines(this.#process.stdout);
  }

  /** The next line it prints; `missing` when it has ended. */
  async line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    return done ? "missing" : value;
  }

  /** Sends a line and reads the numbers it answers with. */
  async ask(question: string): Promise<number[]> {
    this.#process.stdin.write(`${question}\n`);
    await this.#process.stdin.flush();
    return (await this.line()).split(" ").map(Number);
  }

  async close(): Promise<void> {
    this.#process.stdin.end();
    await this.#process.exited;
  }
}

async function* readLines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    rest += decoder.decode(chunk, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() as string;
    yield* lines;
  }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return ((sorted[(sorted.length - 1) >> 1] as number) + (sorted[sorted.length >> 1] as number)) / 2;
}
