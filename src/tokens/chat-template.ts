/** Chat templates: Jinja programs that write a conversation the way a model was trained to read it. */

import { Template } from "@huggingface/jinja";
import { AleError, errorMessage } from "../core/errors.ts";
import { rewriteStrips, STRIP_FUNCTIONS } from "./jinja-strip.ts";
import { restoreNumbers } from "./template-json.ts";

/** One message as templates expect it. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string;
}

/** Variables of a template beside the token texts, by the names that templates use. */
export interface ChatInput {
  readonly messages: readonly unknown[];
  /** Function schemas offered to the model. */
  readonly tools?: readonly unknown[] | null;
  /** Ends the text with the opening of an answer. */
  readonly add_generation_prompt?: boolean;
  /** Anything else a template reads, for instance `enable_thinking`. */
  readonly [name: string]: unknown;
}

/**
 * A compiled template with the settings of Hugging Face: `trim_blocks` and `lstrip_blocks` on, and `tojson` as Python's
 * `json.dumps(x, ensure_ascii=False)`. https://huggingface.co/docs/transformers/main/en/chat_templating
 */
export class ChatTemplate {
  /** The program. */
  readonly source: string;
  readonly #template: Template;
  readonly #location: string;
  /** `bos_token` and its siblings. */
  readonly #tokens: Readonly<Record<string, string>>;

  /** Throws `AleError("tokenizer")` naming `location` when the program cannot be read. */
  constructor(source: string, tokens: Readonly<Record<string, string>>, location: string) {
    this.source = source;
    this.#location = location;
    this.#tokens = tokens;
    try {
      this.#template = new Template(source);
      rewriteStrips(this.#template.parsed);
    } catch (error) {
      throw new AleError("tokenizer", `the chat template in ${location} cannot be read: ${errorMessage(error)}`, {
        cause: error,
      });
    }
  }

  /**
   * Renders a conversation; input that was JSON is read by `parseTemplateJson`, so that its numbers stay as they are. Throws `AleError("tokenizer")` with the template's own words where it refuses one.
   */
  render(input: ChatInput): string {
    try {
      return restoreNumbers(this.#template.render({ ...STRIP_FUNCTIONS, tools: null, ...this.#tokens, ...input }));
    } catch (error) {
      throw new AleError("tokenizer", `the chat template in ${this.#location} refuses this: ${errorMessage(error)}`, {
        cause: error,
      });
    }
  }
}
