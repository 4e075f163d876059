/**
 * The simple commands in a line of shell: enough of the grammar to tell `ssh -R …` from `echo "ssh -R …"`. Not a shell: what
 * is computed while the line runs (variables, globs) stays as it is written.
 */

export interface SimpleCommand {
  /** Without its folder and without wrappers such as `nohup`. */
  readonly program: string;
  readonly args: readonly string[];
  /** Targets of output redirections. */
  readonly writes: readonly string[];
}

const MAX_TEXT = 50_000;
const MAX_COMMANDS = 2000;
const MAX_DEPTH = 5;

/** Words before the command they run. */
const KEYWORDS = new Set("if then else elif do while until ! { } time".split(" "));
const WRAPPERS = new Set(
  "exec command builtin nohup setsid sudo doas env nice ionice stdbuf timeout xargs watch strace unbuffer busybox npx".split(
    " ",
  ),
);
/** Options of wrappers that are followed by a value. */
const WITH_VALUE = new Set(["-u", "-n", "-s", "-k", "-c", "-g", "-I", "-P", "-L", "-S", "--signal", "--user", "-p"]);
const SHELLS = new Set("sh bash dash zsh ksh ash".split(" "));

export function simpleCommands(text: string): SimpleCommand[] {
  const found: SimpleCommand[] = [];
  scan(text.slice(0, MAX_TEXT), found, 0);
  return found;
}

/** The command a process runs, from its arguments. */
export function commandOfProcess(argv: readonly string[]): SimpleCommand[] {
  const found: SimpleCommand[] = [];
  finish(argv, [], found, 0);
  return found;
}

class Line {
  words: string[] = [];
  writes: string[] = [];
  word: string | undefined;
  /** What becomes of the next word. */
  next: "word" | "write" | "skip" | "heredoc" = "word";
  /** Delimiters of here-documents that begin with the next line. */
  heredocs: string[] = [];

  add(characters: string): void {
    this.word = (this.word ?? "") + characters;
  }

  endWord(): void {
    const { word, next } = this;
    if (word === undefined) return;
    this.word = undefined;
    this.next = "word";
    if (next === "word") this.words.push(word);
    else if (next === "write") this.writes.push(word);
    else if (next === "heredoc") this.heredocs.push(word);
  }

  endCommand(found: SimpleCommand[], depth: number): void {
    this.endWord();
    finish(this.words, this.writes, found, depth);
    this.words = [];
    this.writes = [];
    this.next = "word";
  }
}

function scan(text: string, found: SimpleCommand[], depth: number): void {
  if (depth > MAX_DEPTH) return;
  const line = new Line();
  for (let i = 0; i < text.length && found.length < MAX_COMMANDS; ) i = step(text, i, line, found, depth);
  line.endCommand(found, depth);
}

/** Reads what begins at `i`; returns where the next begins. */
function step(text: string, i: number, line: Line, found: SimpleCommand[], depth: number): number {
  const c = text[i] as string;
  const after = text[i + 1];
  if (c === "\\") {
    if (after !== "\n") line.add(after ?? "");
    return i + 2;
  }
  if (c === "'") return quote(text, i, line);
  if (c === '"') return doubleQuote(text, i, line, found, depth);
  if (c === "`" || ((c === "$" || c === "<" || c === ">") && after === "("))
    return substitute(text, i, line, found, depth);
  if (c === "#" && line.word === undefined) return endOf(text, "\n", i);
  if (c === ">" || c === "<" || (c === "&" && after === ">")) return redirect(text, i, line);
  if (c === " " || c === "\t" || c === "\r") {
    line.endWord();
    return i + 1;
  }
  if (c === "\n") {
    line.endCommand(found, depth);
    return skipHeredocs(text, i + 1, line);
  }
  if (c === ";" || c === "|" || c === "&" || c === "(" || c === ")") {
    line.endCommand(found, depth);
    return i + 1;
  }
  line.add(c);
  return i + 1;
}

function endOf(text: string, mark: string, from: number): number {
  const at = text.indexOf(mark, from);
  return at < 0 ? text.length : at;
}

function quote(text: string, i: number, line: Line): number {
  const end = endOf(text, "'", i + 1);
  line.add(text.slice(i + 1, end));
  return end + 1;
}

function doubleQuote(text: string, from: number, line: Line, found: SimpleCommand[], depth: number): number {
  line.add("");
  for (let i = from + 1; i < text.length; ) {
    const c = text[i] as string;
    if (c === '"') return i + 1;
    if (c === "`" || (c === "$" && text[i + 1] === "(")) i = substitute(text, i, line, found, depth);
    else if (c === "\\") {
      line.add(text[i + 1] ?? "");
      i += 2;
    } else {
      line.add(c);
      i++;
    }
  }
  return text.length;
}

/** What `$(…)`, `<(…)` or `` `…` `` runs. */
function substitute(text: string, i: number, line: Line, found: SimpleCommand[], depth: number): number {
  line.add("");
  if (text[i] === "`") {
    const end = endOf(text, "`", i + 1);
    scan(text.slice(i + 1, end), found, depth + 1);
    return end + 1;
  }
  let open = 1;
  let end = i + 2;
  for (; end < text.length && open > 0; end++) open += text[end] === "(" ? 1 : text[end] === ")" ? -1 : 0;
  scan(text.slice(i + 2, open === 0 ? end - 1 : end), found, depth + 1);
  return end;
}

function redirect(text: string, from: number, line: Line): number {
  // A number right before it is a descriptor.
  if (line.word !== undefined && /^\d+$/.test(line.word)) line.word = undefined;
  line.endWord();
  const operator = /^(?:&>>?|>>|>\||>&|<<<|<<-?|<>|<&|>|<)/.exec(text.slice(from, from + 3))?.[0] ?? ">";
  if (operator === "<<" || operator === "<<-") line.next = "heredoc";
  else line.next = operator.startsWith("<") && operator !== "<>" ? "skip" : "write";
  return from + operator.length;
}

function skipHeredocs(text: string, from: number, line: Line): number {
  let at = from;
  for (const delimiter of line.heredocs.splice(0)) {
    for (let done = false; !done && at < text.length; ) {
      const end = endOf(text, "\n", at);
      done = text.slice(at, end).trim() === delimiter;
      at = end + 1;
    }
  }
  return Math.min(at, text.length);
}

function finish(given: readonly string[], writes: readonly string[], found: SimpleCommand[], depth: number): void {
  const words = [...given];
  let wrapped = false;
  for (;;) {
    const first = words[0];
    if (first === undefined) break;
    const name = baseName(first);
    if (KEYWORDS.has(first) || /^[A-Za-z_]\w*=/.test(first)) words.shift();
    else if (WRAPPERS.has(name) && words.length > 1) {
      words.shift();
      wrapped = true;
    } else if (wrapped && first.startsWith("-")) words.splice(0, WITH_VALUE.has(first) ? 2 : 1);
    else if (wrapped && /^[\d.]+[smhd]?$/.test(first)) words.shift();
    else break;
  }
  const [first, ...args] = words;
  if (first === undefined && writes.length === 0) return;
  const program = baseName(first ?? "");
  found.push({ program, args, writes });
  const inner = SHELLS.has(program) ? args[args.findIndex((arg) => /^-[a-z]*c$/.test(arg)) + 1] : undefined;
  if (SHELLS.has(program) && args.some((arg) => /^-[a-z]*c$/.test(arg)) && inner !== undefined)
    scan(inner, found, depth + 1);
  if (program === "eval") scan(args.join(" "), found, depth + 1);
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
