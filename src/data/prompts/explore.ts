/** What the agent is told that looks for tasks. */

export interface ExploreQuestion {
  /** Ideas wanted. */
  readonly count: number;
  /** Titles that are taken. */
  readonly known: readonly string[];
}

/** Where the answer is looked for. */
export const IDEAS_FILE = "/work/out/ideas.json";

export function explorePrompt({ count, known }: ExploreQuestion): string {
  const taken =
    known.length === 0
      ? ""
      : `\nThese are taken already; find others:\n${known.map((title) => `- ${title}`).join("\n")}\n`;
  return `Role: explore

The folder /work/repo holds a software project. Read it, and find ${count} ideas for tasks that a person at a shell could be given. The tasks train and test agents that work in a terminal.

A good task
- grows out of what is in this project: its code, data, formats, build, tests, bugs that are likely there;
- can be done in a sandbox without a network, with the programs that are installed there;
- has a result that a script can check, and takes between 3 and 30 commands;
- can be told in a few sentences, without hidden requirements.

Make them differ in kind: repair, feature, refactoring, data processing, debugging, tests, build, scripting.
${taken}
Write ${IDEAS_FILE}, a JSON list of ${count} objects:
[{"title": "short, unique", "idea": "what has to be done and how a script could check it", "files": ["paths in /work/repo that matter"], "difficulty": "easy" | "medium" | "hard"}]
Then say that you are done.`;
}
