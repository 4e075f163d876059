import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { AleError } from "../core/errors.ts";
import { CommandLine } from "./command-line.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { buildProgram, runCli, VERBS } from "./program.ts";
import { reportError } from "./report-error.ts";

let folder: string;
let experiment: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ale-cli-"));
  experiment = join(folder, "tiny.toml");
  writeFileSync(experiment, 'name = "tiny"\n[trainer]\nsteps = 3\n');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

class Sink {
  text = "";
  write(text: string): void {
    this.text += text;
  }
}

async function ale(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const stdout = new Sink();
  const stderr = new Sink();
  const code = await runCli(argv, { stdout, stderr, env: { ALE_HOME: join(folder, "home") } });
  return { code, out: stdout.text, err: stderr.text };
}

async function verbNames(): Promise<string[][]> {
  const names: string[][] = [];
  for (const { name } of VERBS) {
    const cli = new CommandLine({ stdout: new Sink(), stderr: new Sink() });
    const program = await buildProgram([name], cli);
    const command = program.commands.find((child: Command) => child.name() === name);
    names.push([name], ...(command?.commands ?? []).map((child: Command) => [name, child.name()]));
  }
  return names;
}

describe("help", () => {
  test("ale alone lists every command with its summary", async () => {
    const { code, out, err } = await ale();
    expect(code).toBe(0);
    expect(err).toBe("");
    const lines = out.split("\n").map((line) => line.trim().split(/ {2,}/));
    for (const { name, summary } of VERBS) expect(lines).toContainEqual([name, summary]);
    expect(await ale("--help")).toEqual({ code: 0, out, err: "" });
  });

  test("every command and subcommand has options, and examples that begin with itself", async () => {
    const names = await verbNames();
    expect(names.map((path) => path.join(" "))).toContain("tasks check");
    for (const path of names) {
      const { code, out, err } = await ale(...path, "--help");
      expect(code).toBe(0);
      expect(err).toBe("");
      expect(out).toStartWith(`Usage: ale ${path.join(" ")}`);
      const shown = (out.split("\nExamples:\n")[1] ?? "").split("\n").filter((line) => /^ {2}ale /.test(line));
      expect(shown.length).toBeGreaterThanOrEqual(2);
      expect(shown.some((line) => line.startsWith(`  ale ${path.join(" ")}`))).toBe(true);
    }
  });

  test("the version", async () => {
    expect((await ale("--version")).out).toMatch(/^ale \d+\.\d+\.\d+\n$/);
    const info = JSON.parse((await ale("version", "--json")).out) as Record<string, string>;
    expect(info.bun).toStartWith(Bun.version);
    expect(info.onnxruntime).toMatch(/^\d/);
  });
});

describe("usage errors end with 2 and a next step", () => {
  test.each([
    [["rnu"], "unknown command 'rnu'; did you mean run?", "ale --help"],
    [["run"], "missing required argument 'file'", "ale run --help"],
    [["run", "x", "--sed", "3"], "unknown option '--sed'; did you mean --seed?", "ale run --help"],
    [["run", "x", "--steps", "3"], "unknown option '--steps'; did you mean --trainer.steps?", "ale run --help"],
    [["tasks", "chekc"], "unknown command 'chekc'; did you mean check?", "ale tasks --help"],
    [["help", "rnu"], 'there is no command "rnu"; did you mean run?', "ale --help"],
    [["help", "tasks", "chekc"], 'there is no command "chekc"; did you mean check?', "ale tasks --help"],
    [["eval", "shell"], "required option '--policy <policy>' not specified", "ale eval --help"],
    [
      ["eval", "s", "--policy", "p", "--samples", "0"],
      '--samples is "0"; expected a whole number from 1 to 1000000',
      "--samples 1",
    ],
    [
      ["eval", "s", "--policy", "p", "--temperature", "x"],
      '--temperature is "x"; expected a number from 0.01 to 10',
      "--temperature 1",
    ],
    [
      ["eval", "s", "--policy", "p", "--trainer.steps", "1"],
      "ale eval takes no experiment settings (--trainer.steps)",
      "ale eval --help",
    ],
    [["resume", "--trainer.steps", "1"], "ale resume takes no experiment settings", "start a new one"],
    [["tasks", "render", "shell", "--out", "x"], '"shell" names no family; expected suite/family', "ale tasks ls"],
  ])("%j", async (argv, message, hint) => {
    const { code, out, err } = await ale(...argv);
    expect(code).toBe(2);
    expect(out).toBe("");
    expect(err).toStartWith(`error: ${message}`);
    expect(err).toContain("\n  next: ");
    expect(err.split("\n  next: ")[1]).toContain(hint);
  });

  test("a command without its subcommand shows its help", async () => {
    const { code, err } = await ale("tasks");
    expect(code).toBe(2);
    expect(err).toContain("Usage: ale tasks");
  });

  test("with --json the error is on stdout too, for programs", async () => {
    const { code, out, err } = await ale("run", join(folder, "nope.toml"), "--json");
    expect(code).toBe(2);
    expect(JSON.parse(out).error).toEqual({
      code: "config",
      message: `there is no experiment file ${join(folder, "nope.toml")}`,
      hint: "give the path of an experiment file (TOML)",
    });
    expect(err).toStartWith("error: there is no experiment file");
  });
});

describe("run", () => {
  test("--dry-run prints the resolved experiment and leaves nothing behind", async () => {
    const { code, out, err } = await ale("run", experiment, "--seed", "7", "--optimizer.lr=1e-5", "--dry-run");
    expect([code, err]).toEqual([0, ""]);
    expect(out).toContain('name = "tiny"');
    expect(out).toContain("seed = 7 ");
    expect(out).toContain("lr = 0.00001 ");
    expect(readdirSync(folder)).toEqual(["tiny.toml"]);
    const json = JSON.parse((await ale("sft", experiment, "--sft.batch", "8", "--dry-run", "--json")).out);
    expect(json.experiment.sft.batch).toBe(8);
    expect(json.changed).toContainEqual({ key: "trainer.steps", value: 3, default: 100 });
    expect(json.configHash).toMatch(/^[0-9a-f]{64}$/);
  });

  test("a folder that holds something is never written to", async () => {
    const out = join(folder, "full");
    mkdirSync(out);
    writeFileSync(join(out, "summary.json"), "{}");
    const { code, err } = await ale("run", experiment, "--out", out);
    expect(code).toBe(2);
    expect(err).toContain(`${out} is not empty (summary.json)`);
    expect(err).toContain(`--out ${out}-2`);
    expect(readdirSync(out)).toEqual(["summary.json"]);
  });

  test("bad settings are refused before anything is made", async () => {
    const { code, err } = await ale("run", experiment, "--trainer.steps", "-1", "--out", join(folder, "new"));
    expect(code).toBe(2);
    expect(err).toContain("--trainer.steps is -1; expected a whole number from 0 to 10000000");
    expect(readdirSync(folder)).not.toContain("new");
  });
});

describe("stored runs", () => {
  test("before the first run there is an empty list and a hint", async () => {
    expect(await ale("runs", "ls", "--json")).toEqual({ code: 0, out: "[]\n", err: "" });
    expect((await ale("runs", "ls")).err).toContain("ale run experiments/shell.toml");
    for (const argv of [["resume"], ["runs", "show", "x"], ["runs", "ls", "--store", join(folder, "none.db")]]) {
      const { code, err } = await ale(...argv);
      expect(code).toBe(2);
      expect(err).toContain("there is no store at");
    }
  });

  test("a store below a file is named", async () => {
    const { code, err } = await ale("runs", "ls", "--store", join(experiment, "ale.db"));
    expect(code).toBe(2);
    expect(err).toStartWith(`error: the store ${experiment}/ale.db cannot be reached: ENOTDIR`);
    expect(err).toContain("--store FILE");
  });
});

test("a task made for a sandbox profile that there is not is refused before anything runs", async () => {
  const suite = join(folder, "suite");
  mkdirSync(join(suite, "odd", "tests"), { recursive: true });
  writeFileSync(join(suite, "odd", "task.toml"), '[environment]\nprofile = "hots"\n');
  writeFileSync(join(suite, "odd", "instruction.md"), "Do it.");
  writeFileSync(join(suite, "odd", "tests", "test.sh"), "echo 1 > /logs/verifier/reward.txt\n");
  const out = join(folder, "never-made");
  for (const argv of [
    ["tasks", "check", suite],
    ["run", experiment, "--tasks.suite", suite, "--out", out],
  ]) {
    const { code, err } = await ale(...argv);
    expect(code).toBe(2);
    expect(err).toContain(`error: odd of ${suite} is made for the sandbox profile "hots", which there is not`);
    expect(err).toContain("set environment.profile in its task.toml to one of: host");
  }
  writeFileSync(join(suite, "odd", "task.toml"), '[environment]\ndocker_image = "none/of:that"\n');
  const { code, err } = await ale("tasks", "check", suite);
  expect([code, err]).toEqual([2, expect.stringContaining('is made for the image "none/of:that", which there is not')]);
  expect(readdirSync(folder)).not.toContain("never-made");
});

describe("errors", () => {
  const print = (error: unknown, json = false) => {
    const stdout = new Sink();
    const stderr = new Sink();
    const code = reportError(error, new CommandLine({ stdout, stderr, env: {} }), json);
    return { code, out: stdout.text, err: stderr.text };
  };

  test("exit codes: 2 for input, 1 for failures, 130 for interrupts", () => {
    expect(print(new AleError("task", "m", { hint: "h" }))).toEqual({ code: 2, out: "", err: "error: m\n  next: h\n" });
    expect(print(new AleError("engine", "m")).code).toBe(1);
    expect(print(new AleError("interrupted", "m", { hint: "ale resume x" }))).toEqual({
      code: 130,
      out: "",
      err: "stopped: m\n  next: ale resume x\n",
    });
  });

  test("a full disk and a fault of ours say what to do", () => {
    expect(print(Object.assign(new Error("write failed"), { code: "ENOSPC" })).err).toContain("next: free some space");
    expect(print(new TypeError("x is not a function")).err).toContain("ALE_DEBUG=1");
  });

  test("nothing in a message acts on the terminal", () => {
    const { err, out } = print(new AleError("task", "\x1b[2Jtask \x1b]0;t\x07name", { hint: "\x9b31mhint" }), true);
    expect(err).toBe("error: task name\n  next: hint\n");
    expect(JSON.parse(out).error.message).toBe("task name");
  });
});

test("Ctrl-C first finishes the step, then stops, then explains, then ends the process", () => {
  const said: string[] = [];
  using interrupt = listenForInterrupt(true, (message) => said.push(message));
  process.emit("SIGINT");
  expect([interrupt.stop.aborted, interrupt.signal.aborted]).toEqual([true, false]);
  expect(said[0]).toContain("after this step");
  process.emit("SIGINT");
  expect(interrupt.signal.aborted).toBe(true);
  expect(said[1]).toContain("saving");
});

test("a program that asks to stop does not wait for a step", () => {
  using interrupt = listenForInterrupt(true, () => {});
  process.emit("SIGTERM");
  expect([interrupt.stop.aborted, interrupt.signal.aborted]).toEqual([true, true]);
});

test("work without steps: the first interrupt aborts, the second explains, the third ends the process", () => {
  const said: string[] = [];
  const codes: number[] = [];
  {
    using interrupt = listenForInterrupt(
      false,
      (message) => said.push(message),
      (code) => codes.push(code),
    );
    process.emit("SIGINT");
    expect(interrupt.signal.aborted).toBe(true);
    expect(said[0]).toContain("saving");
    process.emit("SIGTERM");
    expect(said[1]).toContain("once more");
    expect(codes).toEqual([]);
    process.emit("SIGINT");
    expect(codes).toEqual([130]);
  }
  expect(process.listenerCount("SIGINT")).toBe(0);
});
