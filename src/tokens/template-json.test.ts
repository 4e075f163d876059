import { expect, test } from "bun:test";
import { ChatTemplate } from "./chat-template.ts";
import { parseTemplateJson } from "./template-json.ts";

const template = new ChatTemplate("{{ tools | tojson }}", {}, "test");
const render = (json: string) => template.render({ messages: [], tools: parseTemplateJson(json) as unknown[] });

// Right: what Python 3.11 prints for json.dumps(json.loads(left), ensure_ascii=False).
test.each([
  ["[1, 0, -7, -0, 123456789012]", "[1, 0, -7, 0, 123456789012]"],
  ["[1.0, -2.0, 0.0, -0.0, 100.0, 1e2, 1E5]", "[1.0, -2.0, 0.0, -0.0, 100.0, 100.0, 100000.0]"],
  ["[0.1, 1.5, 0.0001, 0.00012345, 1e-5, 1.5e-7]", "[0.1, 1.5, 0.0001, 0.00012345, 1e-05, 1.5e-07]"],
  ["[1e15, 1e16, 1.25e16, 1e22, 1.5e300]", "[1000000000000000.0, 1e+16, 1.25e+16, 1e+22, 1.5e+300]"],
  ["[123456789012345678901234567890]", "[123456789012345678901234567890]"],
  ['[{"a": {"b": 2.0}, "c": "1.0"}]', '[{"a": {"b": 2.0}, "c": "1.0"}]'],
  ['["<é\\u2028\\u0001\\"\\\\/>", true, null]', '["<é\u2028\\u0001\\"\\\\/>", true, null]'],
])("%s", (json, written) => {
  expect(render(json)).toBe(written);
});

test("a number outside of tojson, and private characters that are none", () => {
  const plain = new ChatTemplate("{{ messages[0].limit }} {{ messages[0].content }}", {}, "test");
  const messages = parseTemplateJson('[{"limit": 3.0, "content": "\ue000x\ue000"}]') as unknown[];
  expect(plain.render({ messages })).toBe("3.0 \ue000x\ue000");
});
