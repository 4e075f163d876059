import { expect, test } from "bun:test";
import { branchesOf, crucialSpans, forkSection, forkTree } from "./forks.ts";

const episode = (forkAnchor: number | null, reward: number) => ({ forkAnchor, reward });

test("episodes of a task fall into branches by anchor; those without one are from scratch", () => {
  const episodes = [episode(6, 1), episode(null, 0), episode(6, 0), episode(3, 0), episode(null, 1), episode(6, 0.5)];
  expect(branchesOf(episodes)).toEqual([
    { anchor: 1, solved: 1, episodes: 2 },
    { anchor: 3, solved: 0, episodes: 1 },
    { anchor: 6, solved: 1, episodes: 3 },
  ]);
});

test("a stretch over which success rises is crucial, the last one up to the expert's end", () => {
  const branches = [0, 1, 8].map((solved, i) => ({ anchor: 1 + 2 * i, solved, episodes: 8 }));
  expect(crucialSpans({ branches, chunks: 7 })).toEqual([[3, 5]]);
  expect(crucialSpans({ branches: branches.slice(0, 2), chunks: 7 })).toEqual([[3, 8]]);
});

test("a tree has a node per chunk, a branch per anchor with its count, and commands as text", () => {
  const tree = {
    ...{ step: 4, taskId: "fork/folder/train/1", instruction: "<b>", expert: "oracle", chunks: 5 },
    branches: [
      { anchor: 1, solved: 0, episodes: 8 },
      { anchor: 3, solved: 6, episodes: 8 },
    ],
    commands: new Map([[3, "mv a '<script>'"]]),
  };
  const drawn = forkTree(tree).toString();
  expect(drawn.match(/<circle/g)).toHaveLength(5);
  expect(drawn).toContain(">6/8<");
  expect(drawn).toContain(">from scratch<");
  // three quarters of the bar's 64
  expect(drawn).toContain('class="solved" x="391" y="108" width="22" height="48"');
  const section = String(forkSection([tree]));
  expect(section).toContain("<code>mv a &#39;&lt;script&gt;&#39;</code>");
  expect(section).toContain("<code>(the expert&#39;s)</code>");
  expect(section).not.toContain("<script>");
  expect(forkSection([])).toBeNull();
});
