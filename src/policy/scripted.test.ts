import { expect, test } from "bun:test";
import { trainBpe } from "../tokens/bpe-trainer.ts";
import { BpeTokenizer } from "../tokens/tokenizer.ts";
import { RandomPolicy, ScriptedPolicy } from "./scripted.ts";

const tokenizer = new BpeTokenizer(trainBpe(["rm fota"], 300), "test");
const sampling = { temperature: 1, greedy: false, maxTokens: 36, stopIds: [0, 1, 2, 3, 4] };
const context = Int32Array.of(1, 2);

test("a script is played command by command, then it is done", async () => {
  await using session = await new ScriptedPolicy(tokenizer, ["rm fota"]).open();
  const first = await session.generate(context, sampling);
  expect([...first.ids]).toEqual([...tokenizer.encode("rm fota"), 3]);
  expect([...first.logprobs]).toEqual(Array.from(first.ids, () => 0));
  expect([...(await session.generate(context, sampling)).ids]).toEqual([4]);
});

test("a listener hears every token and ends the answer", async () => {
  await using session = await new ScriptedPolicy(tokenizer, ["rm fota"]).open();
  const heard: number[] = [];
  const answer = await session.generate(context, sampling, undefined, (id) => heard.push(id) === 2);
  expect([...answer.ids]).toEqual([...tokenizer.encode("rm fota")].slice(0, 2));
  expect([heard, answer.stop, answer.logprobs.length]).toEqual([[...answer.ids], "stop", 2]);
});

test("an empty script does nothing", async () => {
  await using session = await new ScriptedPolicy(tokenizer, []).open();
  expect([...(await session.generate(context, sampling)).ids]).toEqual([4]);
});

test("random tokens are uniform, end at a stop token or the limit, and repeat with their key", async () => {
  const size = tokenizer.vocabularySize;
  const policy = new RandomPolicy(size);
  const play = async (key: string) => {
    await using session = await policy.open(key);
    return Promise.all(Array.from({ length: 200 }, () => session.generate(context, sampling)));
  };
  const answers = await play("a");
  expect(await play("a")).toEqual(answers);
  expect(await play("b")).not.toEqual(answers);
  for (const { ids, logprobs, stop } of answers) {
    const end = ids.findIndex((id) => id <= 4);
    expect(end === -1 ? [36, "length"] : [end + 1, "stop"]).toEqual([ids.length, stop]);
    for (const logprob of logprobs) expect(logprob).toBeCloseTo(-Math.log(size), 5);
  }
  const ids = answers.flatMap((answer) => [...answer.ids]);
  expect(ids.reduce((sum, id) => sum + id, 0) / ids.length / (size - 1)).toBeCloseTo(0.5, 1);
  expect(Math.max(...ids)).toBeLessThan(size);
});
