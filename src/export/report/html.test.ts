import { expect, test } from "bun:test";
import { Rng } from "../../core/rng.ts";
import { escapeHtml, html } from "./html.ts";

/** Elements and attribute names as a real tokenizer sees them, and the text of the element `pre`. */
async function parse(markup: string) {
  const elements: string[] = [];
  let comments = 0;
  await new HTMLRewriter()
    .on("*", {
      element: (element) => {
        elements.push(`${element.tagName}(${[...element.attributes].map(([name]) => name).join(",")})`);
      },
    })
    .onDocument({ comments: () => void comments++ })
    .transform(new Response(markup))
    .text();
  return { elements, comments };
}

const page = (text: string) =>
  html`<body><p title="${text}" class='${text}'>${text}</p><pre>${[text, text]}</pre></body>`.toString();

const NASTY = [
  "<script>alert(1)</script>",
  '"><img src=x onerror=alert(1)>',
  "' onmouseover='alert(1)",
  "</pre></body><iframe src=//evil>",
  "<!--",
  "-->",
  "<![CDATA[",
  "</title></style></script>",
  "&lt;script&gt;",
  "&#60;b&#62;",
  "`${alert(1)}`",
  "\u0000<\u0000script>",
  "\ud800<b>",
  "\u202e<b>",
  "\u2028</pre>",
  "＜script＞",
];

test("text can only become text: no element, attribute or comment appears", async () => {
  const rng = new Rng("html");
  const fragments = [
    () => rng.pick(NASTY),
    () => rng.pick(["<", ">", '"', "'", "&", "/", "!", "--"]),
    () => String.fromCharCode(...Array.from({ length: rng.int(0, 8) }, () => rng.int(0, 0xffff))),
    () => String.fromCharCode(...Array.from({ length: rng.int(0, 8) }, () => rng.int(0, 0x7f))),
  ];
  const texts = Array.from({ length: 3000 }, () =>
    Array.from({ length: rng.int(1, 6) }, () => rng.pick(fragments)()).join(""),
  );
  for (const some of [NASTY, texts]) {
    const hostile = await parse(some.map(page).join(""));
    expect(hostile).toEqual(await parse(some.map(() => page("plain")).join("")));
  }
});

test("what a browser shows is the text, with invisible characters written out", () => {
  expect(escapeHtml(`a<b>&"c"'d'\`e\``)).toBe("a&lt;b&gt;&amp;&quot;c&quot;&#39;d&#39;&#96;e&#96;");
  expect(escapeHtml("\u001b[31mred\u202e \tkept\n")).toBe("\\u{1b}[31mred\\u{202e} \tkept\n");
  expect(escapeHtml("\ud800x")).toBe("\ufffdx");
});

test("only templates make markup", () => {
  const inner = html`<b>${"<i>"}</b>`;
  expect(html`<p>${inner}${[inner, "&"]}${null}${undefined}${false}${0}</p>`.toString()).toBe(
    "<p><b>&lt;i&gt;</b><b>&lt;i&gt;</b>&amp;0</p>",
  );
});
